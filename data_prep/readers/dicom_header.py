"""The header of a DICOM image as plain values; pixels are not read."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.errors import ScanError
from data_prep.readers.dicom_file import is_deflated, read_elements, syntax_of
from data_prep.readers.dicom_values import (
    BROKEN,
    Values,
    acquisition_of,
    exclusion_of,
    is_file_fault,
    listed,
    values_of,
)
from data_prep.readers.distinctions import KEYWORDS, distinctions_of
from data_prep.readers.suspects import Plane, suspect_plane
from data_prep.volume import Acquisition

_TAGS = [Tag(keyword) for keyword in (
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Exposure",
    "ExposureTime", "XRayTubeCurrent", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows",
    "Columns", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames",
    "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelData", *KEYWORDS,
)]  # fmt: skip
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

Holder = Values | Dataset
"""Anything that may hold an element of a frame, asked by keyword."""


@dataclass(frozen=True)
class Frame:
    """One image plane. ``position`` and ``spacing`` (down, right) in mm; ``padding``: range of stored values.

    ``distinctions``: texts that may tell images of one series apart.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    distinctions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Native:
    """Frames stored as plain 16-bit numbers from ``offset`` (bytes) in the file; ``bits`` of each number are used."""

    offset: int
    bits: int
    signed: bool


@dataclass(frozen=True)
class Header:
    """The header of a DICOM image.

    ``exclusion``: why it is no slice of a CT scan, which then has no frames; empty for a slice. ``patient``,
    ``study``, ``series``, ``instance`` and ``description`` are identifiers or free text: they must not leave the
    reader. ``native`` is None if the pixels need a decoder. ``is_standard``: a decoder can find them in the file, which
    is not deflated and names its transfer syntax. ``suspect``: the plane of an excluded image that may be a slice none
    the less.
    """

    patient: str
    study: str
    series: str
    instance: str
    description: str
    acquisition: Acquisition
    exclusion: str
    frames: tuple[Frame, ...]
    syntax: UID
    native: Native | None
    is_standard: bool = True
    suspect: Plane | None = None


def read_header(path: Path) -> Header:
    """Read the header of a DICOM file.

    Raises:
        ScanError: no readable DICOM file.
        OSError: the file cannot be opened.
    """
    try:
        image = read_elements(path, _TAGS)
        pixels = image.get_item("PixelData", keep_deferred=True) if "PixelData" in image else None
        image.pop("PixelData", None)
        is_standard = "TransferSyntaxUID" in image.file_meta and not is_deflated(image)
        return replace(_header(values_of(image), syntax_of(image), pixels), is_standard=is_standard)
    except ScanError:
        raise
    except (OSError, *BROKEN) as error:
        if not is_file_fault(error):
            raise
        raise ScanError(f"no readable DICOM image ({type(error).__name__})") from error


def _header(values: Values, syntax: UID, pixels: Any) -> Header:
    exclusion = _exclusion(values) or ("holds no image" if pixels is None else "")
    frames = () if exclusion else tuple(_frames(values))
    return Header(
        patient=_identifier(values, "PatientID"),
        study=_identifier(values, "StudyInstanceUID"),
        series=_identifier(values, "SeriesInstanceUID"),
        instance=_identifier(values, "SOPInstanceUID"),
        description=str(values.get("SeriesDescription") or ""),
        acquisition=acquisition_of(values),
        exclusion=exclusion,
        frames=frames,
        syntax=syntax,
        native=_native(values, syntax, pixels, len(frames)) if frames else None,
        suspect=suspect_plane(values) if exclusion else None,
    )


def _identifier(values: Values, keyword: str) -> str:
    """Return an identifier without the spaces and zeros that do not count (PS3.5 6.2)."""
    return str(values.get(keyword) or "").strip(" \0")


def read_series_uid(path: Path) -> str:
    """Return the SeriesInstanceUID of a file that cannot be read as an image; an empty text if it is unknown."""
    try:
        return _identifier(values_of(read_elements(path, [Tag("SeriesInstanceUID")])), "SeriesInstanceUID")
    except (OSError, *BROKEN):
        return ""


def _exclusion(values: Values) -> str:
    """Why the image is no slice of a CT scan, or an empty text."""
    reason = exclusion_of(values)
    if reason:
        return reason
    if not values.get("Rows") or not values.get("Columns"):
        return "holds no image"
    if "PerFrameFunctionalGroupsSequence" in values:
        return ""
    missing = [name for name in _GEOMETRY if not values.get(name)]
    if missing:
        return f"lacks {', '.join(missing)}"
    return "several frames without a position each" if int(values.get("NumberOfFrames") or 1) > 1 else ""


def _frames(values: Values) -> Iterator[Frame]:
    """Yield the image of a classic file, or the frames of an enhanced one (PS3.3 C.7.6.16)."""
    shared = list(values.get("SharedFunctionalGroupsSequence") or [])[:1]
    groups = values.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    for group in groups:
        holders = [*_macros([group]), *_macros(shared), values]
        yield Frame(
            position=_numbers(holders, "ImagePositionPatient", 3),
            orientation=_numbers(holders, "ImageOrientationPatient", 6),
            spacing=_numbers(holders, "PixelSpacing", 2),
            shape=(int(values["Rows"]), int(values["Columns"])),
            slope=_scale(holders, "RescaleSlope", 1.0),
            intercept=_scale(holders, "RescaleIntercept", 0.0),
            padding=_padding(values),
            distinctions=distinctions_of(partial(_first, holders)),
        )


def _macros(groups: list[Dataset]) -> list[Holder]:
    """Return the first item of each sequence in functional groups."""
    return [element.value[0] for group in groups for element in group if element.VR == "SQ" and element.value]


def _first(holders: list[Holder], name: str) -> Any:
    return next((element for holder in holders if (element := holder.get(name)) is not None), None)


def _numbers(holders: list[Holder], name: str, count: int) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in listed(_first(holders, name)))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ScanError(f"{name} holds {len(numbers)} numbers, wanted {count}")
    return numbers


def _scale(holders: list[Holder], name: str, default: float) -> float:
    numbers = [float(number) for number in listed(_first(holders, name))]
    if not all(map(math.isfinite, numbers)):
        raise ScanError(f"{name} is not finite")
    return numbers[0] if numbers else default


def _padding(values: Values) -> tuple[int, int] | None:
    """Return the range of stored values outside the field of view; some files write signed ones as unsigned."""
    ends = [values.get("PixelPaddingValue"), values.get("PixelPaddingRangeLimit")]
    signed = bool(values.get("PixelRepresentation"))
    limits = sorted(_signed(int(end), signed) for end in ends if end is not None)
    return (limits[0], limits[-1]) if ends[0] is not None else None


def _signed(stored: int, signed: bool) -> int:
    return stored - 65536 if signed and stored > 32767 else stored


def _native(values: Values, syntax: str, pixels: Any, frames: int) -> Native | None:
    """Return where plain 16-bit numbers lie, or None if the pixels are compressed or stored in another way."""
    plain = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if not plain or not isinstance(pixels, RawDataElement):
        return None
    bits, rows, columns = (int(values[name]) for name in ("BitsStored", "Rows", "Columns"))
    layout = values.get("SamplesPerPixel", 1), values["BitsAllocated"], values.get("HighBit", bits - 1)
    if layout != (1, 16, bits - 1):
        return None
    plane_bytes = rows * columns * 2
    if not 0 <= pixels.length - frames * plane_bytes < plane_bytes:  # some are filled up to a whole block
        raise ScanError(f"holds {pixels.length} bytes of pixels, wanted {frames} x {rows} x {columns} x 2")
    return Native(pixels.value_tell, bits, bool(values.get("PixelRepresentation"))) if pixels.value is None else None
