"""NIfTI files to canonical scans."""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from data_prep.errors import ScanError
from data_prep.volume import Acquisition, CTScan, Grid, Numbers

_BROKEN = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError,
           zlib.error, EOFError, ValueError, OverflowError, TypeError)  # fmt: skip
_GZIP = b"\x1f\x8b"


def open_nifti(path: Path, acquisition: Acquisition = Acquisition()) -> CTScan:  # noqa: B008 - it is frozen
    """Open one 3D NIfTI file in HU; a compressed one is unpacked to an unnamed temporary file.

    Raises:
        ScanError: corrupt, truncated, not three-dimensional or not an axial CT.
        OSError: the file cannot be opened.
    """
    image: Any = nifti_image(path)
    grid = Grid.of(np.asarray(image.affine, dtype=np.float64))
    with _reasoned():
        view = grid.turned(_stored(path, image.dataobj))
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)

    def planes(start: int, stop: int) -> Numbers:
        values = view[start:stop]
        if (slope, intercept) == (1, 0):
            return np.asarray(values)
        scaled: Numbers = values.astype(np.float64) * slope + intercept
        return scaled

    return CTScan(view.shape[0], grid.spacing, planes, acquisition)


def nifti_image(path: Path) -> nib.Nifti1Image:
    """The header of a three-dimensional NIfTI file; no voxel is read.

    Raises:
        ScanError: it is no readable NIfTI file, or not three-dimensional.
        OSError: the file cannot be opened.
    """
    with _reasoned():
        image = nib.nifti1.Nifti1Image.from_filename(path)
    if len(image.shape) != 3:
        raise ScanError(f"the NIfTI file has {len(image.shape)} dimensions, wanted 3")
    if min(image.shape) < 2:
        raise ScanError(f"the NIfTI file holds {' x '.join(map(str, image.shape))} voxels, wanted at least 2 each way")
    return image


def _stored(path: Path, proxy: Any) -> Numbers:
    """The voxels (i, j, k) as they are stored, mapped from disk."""
    if proxy.dtype.kind not in "iuf":
        raise ScanError(f"the NIfTI file holds {proxy.dtype}, wanted whole or real numbers")
    mapped: Numbers = np.memmap(_unpacked(path), proxy.dtype, "r", proxy.offset, proxy.shape, "F")
    return mapped


def _unpacked(path: Path) -> Path | IO[bytes]:
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            return path
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its mapping
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    unpacked.flush()
    return unpacked


@contextmanager
def _reasoned() -> Iterator[None]:
    """Turn what a broken file brings about into its reason."""
    try:
        yield
    except ScanError:
        raise
    except OSError as error:
        if error.errno is not None:  # the disk's fault or a permission's, not the file's
            raise
        raise ScanError(_broken(error)) from error
    except _BROKEN as error:
        raise ScanError(_broken(error)) from error


def _broken(error: Exception) -> str:
    return f"no readable NIfTI file ({type(error).__name__})"
