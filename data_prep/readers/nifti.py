"""NIfTI files to canonical scans."""

import gzip
import mmap
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        mapping = _mapped(path)
        view = grid.turned(_voxels(mapping, image.dataobj))
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)

    def planes(start: int, stop: int) -> Numbers:
        values = view[start:stop].copy()
        mapping.madvise(mmap.MADV_DONTNEED)  # pages that were read count as memory until they are let go
        if (slope, intercept) == (1, 0):
            return values
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


def _voxels(mapping: mmap.mmap, proxy: Any) -> Numbers:
    """The voxels (i, j, k) as they are stored."""
    if proxy.dtype.kind not in "iuf":
        raise ScanError(f"the NIfTI file holds {proxy.dtype}, wanted whole or real numbers")
    return np.ndarray(proxy.shape, proxy.dtype, mapping, proxy.offset, order="F")


def _mapped(path: Path) -> mmap.mmap:
    """The file's bytes, unpacked to an unnamed temporary file if they are compressed."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        if not packed:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with tempfile.TemporaryFile() as unpacked, gzip.open(path) as content:
        shutil.copyfileobj(content, unpacked, 1 << 20)
        unpacked.flush()
        return mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ)


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
