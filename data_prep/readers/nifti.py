"""NIfTI files to canonical volumes."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from data_prep.errors import ScanError
from data_prep.volume import CTVolume, canonical

_BROKEN = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError,
           zlib.error, EOFError, ValueError, OverflowError)  # fmt: skip


def read_nifti(path: Path) -> CTVolume:
    """Read one 3D NIfTI file in HU.

    Raises:
        ScanError: corrupt, truncated, not three-dimensional or not an axial CT.
        OSError: the file cannot be opened.
    """
    try:
        image = nib.nifti1.Nifti1Image.from_filename(path)
        voxels = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except OSError as error:
        if error.errno is not None:  # the disk's fault or a permission's, not the file's
            raise
        raise ScanError(_broken(error)) from error
    except _BROKEN as error:
        raise ScanError(_broken(error)) from error
    if voxels.ndim != 3:
        raise ScanError(f"the NIfTI file has {voxels.ndim} dimensions, wanted 3")
    return canonical(voxels, affine)


def _broken(error: Exception) -> str:
    return f"no readable NIfTI file ({type(error).__name__})"
