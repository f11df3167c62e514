"""Read NIfTI files as canonical scans."""

import gzip
import hashlib
import logging
import mmap
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from data_prep.errors import ScanError
from data_prep.files import naming_full_disk
from data_prep.grid import Grid
from data_prep.readers.nifti_geometry import affine_of, check_as_written, check_lengths
from data_prep.volume import Acquisition, CTScan, Numbers

_BROKEN = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError,
           zlib.error, EOFError, ValueError, OverflowError, TypeError)  # fmt: skip
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it prints remarks on broken headers
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
    check_lengths(grid, grid.to_canonical(np.broadcast_to(False, image.shape)).shape, image.header)
    with _as_scan_error():
        mapping = _map_file(path)
        view = grid.to_canonical(_voxels(mapping, image.dataobj))
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)

    def planes(start: int, stop: int) -> Numbers:
        stored = view[start:stop].astype(np.result_type(view, np.int16))  # also of unsigned voxels: -1024 fits
        mapping.madvise(mmap.MADV_DONTNEED)  # pages that were read count as used memory until they are dropped
        if (slope, intercept) == (1, 0):
            return stored
        scaled: Numbers = stored.astype(np.float64) * slope + intercept
        return scaled

    return CTScan(view.shape[0], grid.spacing, planes, acquisition, grid.canonical_affine(affine, image.shape))


def open_first(files: Sequence[Path]) -> CTScan:
    """Open a series that is one NIfTI file."""
    return open_nifti(files[0])


def nifti_image(path: Path) -> nib.Nifti1Image:
    """Read the header of a NIfTI file, whatever its ending; no voxel is read. A single volume of a series counts as 3D.

    Raises:
        ScanError: it is no readable NIfTI file, or not three-dimensional.
        OSError: the file cannot be opened.
    """
    with _as_scan_error(), path.open("rb") as file, _unpacked(file) as content:
        image_class = _image_class(content)
        _check_scaling(image_class.header_class.from_fileobj(content))
        content.seek(0)
        check_as_written(image_class.header_class.from_fileobj(content, check=False))
        content.seek(0)
        image = image_class.from_stream(content)
        affine, intent = affine_of(image.header), int(image.header["intent_code"])
        image = type(image)(image.dataobj, affine, image.header)
        if len(image.shape) > 3 and {*image.shape[3:]} == {1}:
            voxels: Any = image.dataobj
            image = type(image)(voxels.reshape(image.shape[:3]), image.affine, image.header)
    _check_voxels(image)
    if intent:
        raise ScanError(f"intent_code is {intent}, wanted 0: a map of labels or statistics is no CT")
    if len(image.shape) != 3:
        raise ScanError(f"the NIfTI file has {len(image.shape)} dimensions, wanted 3")
    if min(image.shape) < 2:
        raise ScanError(f"the NIfTI file holds {' x '.join(map(str, image.shape))} voxels, wanted at least 2 each way")
    return image


def has_same_content(first: Path, second: Path) -> bool:
    """Whether two files hold the same bytes, packed or not; raises as :func:`nifti_image` where one cannot be read."""
    digests = set()
    for path in (first, second):
        with _as_scan_error(), path.open("rb") as file, _unpacked(file) as content:
            digests.add(hashlib.file_digest(content, "sha256").digest())
    return len(digests) == 1


def _check_scaling(header: Any) -> None:
    """Refuse a slope or its intercept that is infinite or missing; with a slope of 0 or NaN voxels are not scaled."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope and not np.isnan(slope) and not np.isfinite([slope, intercept]).all():
        raise ScanError(f"scl_slope is {slope:g} and scl_inter {intercept:g}, wanted finite numbers")


def _check_voxels(image: Any) -> None:
    """Refuse voxels that are no whole or real numbers, such as colours, or that would begin inside the header."""
    header, offset = image.header, image.dataobj.offset
    if offset < header.single_vox_offset:
        raise ScanError(f"vox_offset is {offset}, wanted at least {header.single_vox_offset}")
    if header.get_data_dtype().kind not in "iuf":
        code = int(header["datatype"])
        name = nib.nifti1.data_type_codes.label[code]
        raise ScanError(f"datatype is {code} ({name}), wanted one of whole or real numbers")


def _unpacked(file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    """Return the content of a file, which is unpacked if it is compressed."""
    is_packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_packed else file


def _image_class(content: BufferedReader | gzip.GzipFile) -> type[nib.Nifti1Image]:
    """Return the class of a NIfTI image by the size of its header, which is its first number."""
    size = content.read(4)
    content.seek(0)
    is_second_version = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    return nib.Nifti2Image if is_second_version else nib.Nifti1Image


def _voxels(mapping: mmap.mmap, proxy: Any) -> Numbers:
    """Return the voxels (i, j, k) as they are stored."""
    return np.ndarray(proxy.shape, proxy.dtype, mapping, proxy.offset, order="F")


def _map_file(path: Path) -> mmap.mmap:
    """Map the bytes of a file into memory; compressed ones are unpacked to an unnamed temporary file."""
    with path.open("rb") as file, _unpacked(file) as content:
        if content is file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with naming_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as unpacked:
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
    if isinstance(error, EOFError):
        return "no readable NIfTI file: it is cut off"
    return "no readable NIfTI file: its header contradicts itself, or its voxels are cut off or damaged"
