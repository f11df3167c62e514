"""NIfTI files to canonical volumes."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from data_prep.errors import ScanError
from data_prep.volume import CTVolume, canonical

_BROKEN = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError,
           zlib.error, EOFError, OSError, ValueError, OverflowError)  # fmt: skip


def read_nifti(path: Path) -> CTVolume:
    """Read one 3D NIfTI file in HU.

    Raises:
        ScanError: missing, corrupt, truncated, not three-dimensional or not an axial CT.
    """
    if not path.is_file():
        raise ScanError(f"{path} does not exist")
    try:
        image = nib.nifti1.Nifti1Image.from_filename(path)
        voxels = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except _BROKEN as error:
        raise ScanError(f"{path} is no readable NIfTI file: {error}") from error
    if voxels.ndim != 3:
        raise ScanError(f"{path} has {voxels.ndim} dimensions, wanted 3")
    try:
        return canonical(voxels, affine)
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error
