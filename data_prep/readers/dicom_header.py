"""The header of a DICOM image as plain values; pixels are not read."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from data_prep.errors import ScanError
from data_prep.plausibility import check_pixel_size, check_slice_distance
from data_prep.readers.character_sets import decode_text, encodings_of
from data_prep.readers.dicom_file import is_deflated, read_elements, syntax_of
from data_prep.readers.dicom_numbers import numbers_of, whole_number_of
from data_prep.readers.dicom_pixels import (
    Bits,
    Rescale,
    bits_of,
    check_padding,
    kind_exclusion_of,
    padding_of,
    rescale_of,
)
from data_prep.readers.dicom_values import (
    BROKEN,
    Values,
    acquisition_of,
    broken_as_scan_error,
    describe,
    exclusion_of,
    macros_of,
    values_of,
)
from data_prep.readers.distinctions import KEYWORDS, distinctions_of
from data_prep.readers.suspects import Plane, suspect_plane
from data_prep.volume import Acquisition

_REAL_PIXELS = ("FloatPixelData", "DoubleFloatPixelData")
_TAGS = [Tag(keyword) for keyword in (
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Exposure",
    "ExposureTime", "XRayTubeCurrent", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows",
    "Columns", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "RescaleType",
    "ModalityLUTSequence", "PixelAspectRatio", "PixelData", *_REAL_PIXELS, *KEYWORDS,
)]  # fmt: skip
_LENGTH_TOLERANCE, _ANGLE_TOLERANCE = 1e-3, 1e-2  # of direction cosines
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

Holder = Values | Dataset
"""Anything that may hold an element of a frame, asked by keyword."""


@dataclass(frozen=True)
class Frame:
    """One image plane. ``position`` and ``spacing`` (down, right) in mm; ``padding``: range of stored values.

    ``rescale``: from stored values to HU.
    ``distinctions``: texts that may tell images of one series apart.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    bits: Bits
    rescale: Rescale
    padding: tuple[int, int] | None
    distinctions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Native:
    """Frames stored as plain 16-bit numbers from ``offset`` (bytes) in the file."""

    offset: int


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
        NoDicomError: no DICOM file by its first bytes.
        ScanError: no readable DICOM file.
        OSError: the file cannot be opened.
    """
    with broken_as_scan_error("is no readable DICOM file: its header is damaged or cut off"):
        image = read_elements(path, _TAGS)
        if image.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            image.SOPClassUID = MediaStorageDirectoryStorage  # a DICOMDIR, which has no data set of a SOP class
        pixels = image.get_item("PixelData", keep_deferred=True) if "PixelData" in image else None
        real_pixels = next((keyword for keyword in _REAL_PIXELS if keyword in image), "")
        for keyword in ("PixelData", *_REAL_PIXELS):
            image.pop(keyword, None)
        is_standard = "TransferSyntaxUID" in image.file_meta and not is_deflated(image)
        patient = _patient_text(image)
        values = values_of(image) | ({"PatientID": patient} if patient else {})
        header = _header(values, syntax_of(image), pixels, real_pixels)
        return replace(header, is_standard=is_standard)


def _header(values: Values, syntax: UID, pixels: Any, real_pixels: str) -> Header:
    exclusion = _exclusion(values) or ("" if pixels is not None else _pixels_exclusion(real_pixels))
    bits = None if exclusion else bits_of(values)
    frames = tuple(_frames(values, bits)) if bits else ()
    acquisition = acquisition_of(partial(_first, _holders(values, *_frame_groups(values)[:1])))
    if frames and acquisition.thickness:
        check_slice_distance("SliceThickness", acquisition.thickness)
    return Header(
        patient=_identifier(values, "PatientID"),
        study=_identifier(values, "StudyInstanceUID"),
        series=_identifier(values, "SeriesInstanceUID"),
        instance=_identifier(values, "SOPInstanceUID"),
        description=str(values.get("SeriesDescription") or ""),
        acquisition=acquisition,
        exclusion=exclusion,
        frames=frames,
        syntax=syntax,
        native=_native(frames, syntax, pixels) if frames else None,
        suspect=suspect_plane(values) if exclusion else None,
    )


def _patient_text(image: Dataset) -> str:
    """Return PatientID in the character set of its image, composed: a patient in files of two sets is one."""
    raw = image.get_item("PatientID") if "PatientID" in image else None
    text = decode_text(raw.value, encodings_of(image)) if raw and isinstance(raw.value, bytes) else ""
    return normalize("NFC", text)


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
    if values.get("SOPClassUID") == MediaStorageDirectoryStorage:
        return "the directory of a disc"
    missing = _missing(values, ("Rows", "Columns"))
    if missing:
        return f"holds no image: lacks {missing}"
    reason = kind_exclusion_of(values.get)
    if reason or "PerFrameFunctionalGroupsSequence" in values:
        return reason
    missing = _missing(values, _GEOMETRY)
    if missing:
        return f"lacks {missing}"
    return "several frames without a position each" if _frame_count(values) > 1 else ""


def _missing(values: Values, names: Sequence[str]) -> str:
    return ", ".join(name for name in names if not values.get(name))


def _pixels_exclusion(real_pixels: str) -> str:
    """Why an image without PixelData is set aside; ``real_pixels``: element of real numbers that it has instead."""
    return f"has {real_pixels}, wanted PixelData" if real_pixels else "holds no image: lacks PixelData"


def _frame_count(values: Values) -> int:
    return whole_number_of("NumberOfFrames", values.get("NumberOfFrames") or 1)


def _frames(values: Values, bits: Bits) -> Iterator[Frame]:
    """Yield the image of a classic file, or the frames of an enhanced one (PS3.3 C.7.6.16)."""
    groups = _frame_groups(values) or [Dataset()]
    if len(groups) != _frame_count(values):
        raise ScanError(f"NumberOfFrames is {_frame_count(values)}, and {len(groups)} frames are described")
    rows, columns = (whole_number_of(name, values[name]) for name in ("Rows", "Columns"))
    padding = padding_of(values, bits)
    for group in groups:
        first = partial(_first, _holders(values, group))
        rescale = rescale_of(first)
        check_padding(padding, rescale)
        reason = kind_exclusion_of(first) if group else ""
        if reason:
            raise ScanError(reason)
        yield Frame(
            position=numbers_of("ImagePositionPatient", first("ImagePositionPatient"), 3),
            orientation=_orientation(first),
            spacing=_spacing(first),
            shape=(rows, columns),
            bits=bits,
            rescale=rescale,
            padding=padding,
            distinctions=distinctions_of(first),
        )


def _orientation(first: Callable[[str], Any]) -> tuple[float, ...]:
    cosines = numbers_of("ImageOrientationPatient", first("ImageOrientationPatient"), 6)
    a, b, c, d, e, f = cosines
    lengths, product = (math.hypot(a, b, c), math.hypot(d, e, f)), a * d + b * e + c * f
    if max(abs(length - 1) for length in lengths) > _LENGTH_TOLERANCE or abs(product) > _ANGLE_TOLERANCE:
        text = "\\".join(f"{cosine:.4g}" for cosine in cosines)
        raise ScanError(f"ImageOrientationPatient is {text}, wanted two vectors of length 1 at right angles")
    return cosines


def _spacing(first: Callable[[str], Any]) -> tuple[float, float]:
    down, right = numbers_of("PixelSpacing", first("PixelSpacing"), 2)
    for mm in (down, right):
        check_pixel_size("PixelSpacing", mm)
    ratio = first("PixelAspectRatio")
    if ratio and len({*numbers_of("PixelAspectRatio", ratio, 2)}) > 1:
        raise ScanError(f"PixelAspectRatio is {describe(ratio)}, which contradicts PixelSpacing")
    return down, right


def _frame_groups(values: Values) -> list[Dataset]:
    return list(values.get("PerFrameFunctionalGroupsSequence") or [])


def _holders(values: Values, *groups: Dataset) -> list[Holder]:
    """Return what may hold an element of a frame: its functional groups, the shared ones, the image itself."""
    shared = list(values.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [*(macro for group in (*groups, *shared) for macro in macros_of(group)), values]


def _first(holders: list[Holder], name: str) -> Any:
    return next((element for holder in holders if (element := holder.get(name)) is not None), None)


def _native(frames: Sequence[Frame], syntax: str, pixels: Any) -> Native | None:
    """Return where plain 16-bit numbers lie, or None if the pixels are compressed or stored in another way."""
    plain = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if not plain or not isinstance(pixels, RawDataElement):
        return None
    bits, (rows, columns) = frames[0].bits, frames[0].shape
    plane_bytes = rows * columns * bits.allocated // 8
    if not 0 <= pixels.length - len(frames) * plane_bytes < plane_bytes:  # some are filled up to a whole block
        raise ScanError(
            f"PixelData holds {pixels.length} bytes, wanted {len(frames)} x {rows} x {columns} x {bits.allocated // 8}"
        )
    return Native(pixels.value_tell) if pixels.value is None and bits.allocated == 16 else None
