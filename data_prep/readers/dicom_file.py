"""DICOM files as they lie on disks: with or without a preamble, deflated, or with bytes behind their last element."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_prep.errors import ScanError

_DEFERRED_BYTES = 4096  # longer values, which are pixels, are left in the file
_HEAD_BYTES = 132
_PIXEL_DATA = 0x7FE00010
_MAX_FIRST_BYTES = 256
_EXPLICIT_HEAD = re.compile(rb"[\x02\x08]\0..(AE|CS|DA|DT|IS|LO|OB|OW|PN|SH|SQ|ST|TM|UI|UL|US|UT)", re.DOTALL)
_BIG_ENDIAN_HEAD = re.compile(rb"\0\x08..(AE|CS|DA|DT|IS|LO|PN|SH|SQ|ST|TM|UI|UL|US|UT)", re.DOTALL)
_IMPLICIT_HEAD = re.compile(rb"\x08\0..(..)\0\0", re.DOTALL)


class NoDicomError(ScanError):
    """A file that is no DICOM file by its first bytes."""

    def __init__(self) -> None:
        super().__init__("is no DICOM file")


def is_dicom(path: Path) -> bool:
    """Whether a file's first bytes are those of DICOM; raises OSError if it cannot be opened."""
    with path.open("rb") as file:
        return _is_dicom_head(file.read(_HEAD_BYTES))


def _is_dicom_head(head: bytes) -> bool:
    """Whether first bytes are those of DICOM: the preamble, or the first element of a data set."""
    if head[128:] == b"DICM" or _EXPLICIT_HEAD.match(head) or _BIG_ENDIAN_HEAD.match(head):
        return True
    implicit = _IMPLICIT_HEAD.match(head)
    return implicit is not None and int.from_bytes(implicit[1], "little") <= _MAX_FIRST_BYTES


def read_elements(path: Path, tags: Sequence[BaseTag] | None) -> FileDataset:
    """Read elements up to the pixels, or all if ``tags`` is None; long values stay in the file, unless it is deflated.

    Raises:
        NoDicomError: it is no DICOM file.
        OSError: the file cannot be opened.
    """
    image = _read(path, tags, _DEFERRED_BYTES)
    return _read(path, tags, None) if is_deflated(image) else image


def read_whole(path: Path) -> FileDataset:
    """Read a file with its pixels, as if it were neither deflated nor without a transfer syntax."""
    image = _read(path, None, None)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if is_deflated(image) else syntax_of(image)
    return image


def is_deflated(image: FileDataset) -> bool:
    """Whether the data set is compressed as a whole, so that values have no position in the file."""
    return bool(image.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)


def syntax_of(image: FileDataset) -> UID:
    """Return the transfer syntax of a data set; without file meta information, the one in which it was read.

    Raises:
        ScanError: there is file meta information, but it names no transfer syntax.
    """
    if image.file_meta and "TransferSyntaxUID" not in image.file_meta:
        raise ScanError("has no TransferSyntaxUID in its file meta information")
    is_implicit, is_little_endian = image.original_encoding
    guess = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    return UID(image.file_meta.get("TransferSyntaxUID") or (ImplicitVRLittleEndian if is_implicit else guess))


def _read(path: Path, tags: Sequence[BaseTag] | None, deferred_bytes: int | None) -> FileDataset:
    with path.open("rb") as file:
        if not _is_dicom_head(file.read(_HEAD_BYTES)):
            raise NoDicomError
        file.seek(0)
        keys: list[BaseTag | int] | None = None if tags is None else [*tags]
        return read_partial(file, _stop_behind_pixels(), deferred_bytes, force=True, specific_tags=keys)


def _stop_behind_pixels() -> Callable[[BaseTag, str | None, int], bool]:
    """Return a condition that holds behind the pixels: bytes that follow them are no part of the image."""
    has_pixels = False

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal has_pixels
        is_behind, has_pixels = has_pixels, tag == _PIXEL_DATA
        return is_behind

    return stop
