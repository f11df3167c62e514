"""Read NIfTI files as canonical scans."""

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
    """Open one 3D NIfTI file in HU; a compressed file is unpacked to an unnamed temporary file.

    Raises:
        ScanError: corrupt, truncated, not three-dimensional or not an axial CT.
        OSError: the file cannot be opened.
    """
    image: Any = nifti_image(path)
    affine = np.asarray(image.affine, dtype=np.float64)
    grid = Grid.of(affine)
    with _as_scan_error():
        mapping = _map_file(path)
        view = grid.to_canonical(_voxels(mapping, image.dataobj))
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)

    def planes(start: int, stop: int) -> Numbers:
        stored = view[start:stop].copy()
        mapping.madvise(mmap.MADV_DONTNEED)  # pages that were read count as used memory until they are dropped
        if (slope, intercept) == (1, 0):
            return stored
        scaled: Numbers = stored.astype(np.float64) * slope + intercept
        return scaled

    return CTScan(view.shape[0], grid.spacing, planes, acquisition, grid.canonical_affine(affine, image.shape))


def nifti_image(path: Path) -> nib.Nifti1Image:
    """Read the header of a three-dimensional NIfTI file; no voxel is read.

    Raises:
        ScanError: it is no readable NIfTI file, or not three-dimensional.
        OSError: the file cannot be opened.
    """
    with _as_scan_error():
        image = nib.nifti1.Nifti1Image.from_filename(path)
    if len(image.shape) != 3:
        raise ScanError(f"the NIfTI file has {len(image.shape)} dimensions, wanted 3")
    if min(image.shape) < 2:
        raise ScanError(f"the NIfTI file holds {' x '.join(map(str, image.shape))} voxels, wanted at least 2 each way")
    return image


def _voxels(mapping: mmap.mmap, proxy: Any) -> Numbers:
    """Return the voxels (i, j, k) as they are stored."""
    if proxy.dtype.kind not in "iuf":
        raise ScanError(f"the NIfTI file holds {proxy.dtype}, wanted whole or real numbers")
    return np.ndarray(proxy.shape, proxy.dtype, mapping, proxy.offset, order="F")


def _map_file(path: Path) -> mmap.mmap:
    """Map the bytes of a file into memory; compressed ones are unpacked to an unnamed temporary file."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        if not packed:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with tempfile.TemporaryFile() as unpacked, gzip.open(path) as content:
        shutil.copyfileobj(content, unpacked, 1 << 20)
        unpacked.flush()
        return mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def _as_scan_error() -> Iterator[None]:
    """Turn an error from a broken file into a ScanError that says so."""
    try:
        yield
    except ScanError:
        raise
    except OSError as error:
        if error.errno is not None:  # the disk or a permission is at fault, not the file
            raise
        raise ScanError(_message(error)) from error
    except _BROKEN as error:
        raise ScanError(_message(error)) from error


def _message(error: Exception) -> str:
    return f"no readable NIfTI file ({type(error).__name__})"
