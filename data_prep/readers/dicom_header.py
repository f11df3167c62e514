"""What the header of a DICOM image says, as plain values; pixels are not touched."""

import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, config, dcmread
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.errors import ScanError
from data_prep.volume import Acquisition

# pydicom's remarks quote values of the header, and would bring them into logs
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\.")

BROKEN = (
    InvalidDicomError, BytesLengthException, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise on bytes that are no DICOM image."""
_AMBIGUOUS = (0x00280120, 0x00280121)  # padding: signed or not, as another element says
_DEFERRED_BYTES = 4096  # longer values, which are pixels, are left in the file
_TAGS = [
    "SOPClassUID", "PatientID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "ConvolutionKernel",
    "KVP", "Exposure", "ExposureTime", "XRayTubeCurrent", "SliceThickness", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelData",
]  # fmt: skip


Values = dict[str, Any]
Holder = Values | Dataset


@dataclass(frozen=True)
class Frame:
    """One image plane. ``position`` and ``spacing`` (down, right) in mm; ``padding``: range of stored values."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[int, int] | None


@dataclass(frozen=True)
class Native:
    """Where the plain 16-bit numbers of the frames start in the file, in bytes; ``bits`` of each are used."""

    offset: int
    bits: int
    signed: bool


@dataclass(frozen=True)
class Header:
    """The header of a DICOM image.

    ``exclusion``: why it is no slice of a CT scan, which then has no frames; empty for a slice. ``patient``,
    ``series`` and ``description`` are identifiers or free text: they must not leave the reader.
    """

    patient: str
    series: str
    description: str
    acquisition: Acquisition
    exclusion: str
    frames: tuple[Frame, ...]
    syntax: UID
    native: Native | None


def read_header(path: Path) -> Header:
    """Read the header of a DICOM Part 10 file.

    Raises:
        ScanError: no readable DICOM file.
        OSError: the file cannot be opened.
    """
    try:
        image = dcmread(path, defer_size=_DEFERRED_BYTES, specific_tags=_TAGS)
        pixels = image.get_item("PixelData", keep_deferred=True) if "PixelData" in image else None
        image.pop("PixelData", None)
        values = dict(_value(image, tag) for tag in image.keys())  # noqa: SIM118 - a Dataset yields elements
        exclusion = _exclusion(values) or ("holds no image" if pixels is None else "")
        frames = () if exclusion else tuple(_frames(values))
        return Header(
            patient=str(values.get("PatientID") or ""),
            series=str(values.get("SeriesInstanceUID") or ""),
            description=str(values.get("SeriesDescription") or ""),
            acquisition=acquisition_of(values),
            exclusion=exclusion,
            frames=frames,
            syntax=image.file_meta.TransferSyntaxUID,
            native=_native(values, image.file_meta.TransferSyntaxUID, pixels, len(frames)) if frames else None,
        )
    except ScanError:
        raise
    except (OSError, *BROKEN) as error:
        if not of_bytes(error):
            raise
        raise ScanError(f"no readable DICOM image ({type(error).__name__})") from error


def _value(image: Dataset, tag: BaseTag) -> tuple[str, Any]:
    """Keyword and value; a series repeats most of its values, and converting them is half of the time."""
    raw = image.get_item(tag)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or tag in _AMBIGUOUS:
        return image[tag].keyword, image[tag].value
    return _converted(tag, raw.VR, raw.value, raw.is_implicit_VR, raw.is_little_endian)


@lru_cache(1024)
def _converted(tag: BaseTag, vr: str | None, value: bytes, implicit: bool, little: bool) -> tuple[str, Any]:
    element = convert_raw_data_element(RawDataElement(tag, vr, len(value), value, 0, implicit, little))
    return element.keyword, element.value


def of_bytes(error: Exception) -> bool:
    """Whether an error is the file's own, not the disk's or a permission's."""
    return not isinstance(error, OSError) or error.errno is None


def acquisition_of(values: Values) -> Acquisition:
    """How the image was made, from DICOM values by keyword."""
    kernel, thickness = _word(values.get("ConvolutionKernel")), _number(values.get("SliceThickness"))
    return Acquisition(kernel, _number(values.get("KVP")), _charge(values), thickness)


def no_ct(values: Values) -> str:
    """Why DICOM values by keyword are not those of a CT scan's slice, or nothing."""
    modality = _word(values.get("Modality")) or "CT"
    kinds = {str(kind).upper() for kind in _values(values.get("ImageType"))}
    if modality != "CT":
        return f"modality is {modality}, wanted CT"
    if "Secondary Capture" in getattr(values.get("SOPClassUID"), "name", "") or "SCREEN SAVE" in kinds:
        return "a secondary capture, not a scanner's image"
    if kinds & {"LOCALIZER", "SCOUT"}:
        return "a localizer"
    return ""


def _exclusion(values: Values) -> str:
    """Why the image is no slice of a CT scan, or nothing."""
    reason = no_ct(values)
    if reason:
        return reason
    if not values.get("Rows") or not values.get("Columns"):
        return "holds no image"
    missing = [] if "PerFrameFunctionalGroupsSequence" in values else [n for n in _PLACE if not values.get(n)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if "PerFrameFunctionalGroupsSequence" not in values and int(values.get("NumberOfFrames") or 1) > 1:
        return "several frames without a position each"
    return ""


_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def _frames(values: Values) -> Iterator[Frame]:
    """The one image of a classic file, or the frames of an enhanced one (PS3.3 C.7.6.16)."""
    shared = list(values.get("SharedFunctionalGroupsSequence") or [])[:1]
    groups = values.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    for group in groups:
        holders = [*_macros([group]), *_macros(shared), values]
        yield Frame(
            position=_triple(holders, "ImagePositionPatient", 3),
            orientation=_triple(holders, "ImageOrientationPatient", 6),
            spacing=_triple(holders, "PixelSpacing", 2),
            shape=(int(values["Rows"]), int(values["Columns"])),
            slope=_scale(holders, "RescaleSlope", 1.0),
            intercept=_scale(holders, "RescaleIntercept", 0.0),
            padding=_padding(values),
        )


def _macros(groups: list[Dataset]) -> list[Holder]:
    """The items of a functional group's sequences, one of each."""
    return [element.value[0] for group in groups for element in group if element.VR == "SQ" and element.value]


def _first(holders: list[Holder], name: str) -> Any:
    return next((value for holder in holders if (value := holder.get(name)) is not None), None)


def _triple(holders: list[Holder], name: str, count: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in _values(_first(holders, name)))
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ScanError(f"{name} holds {len(values)} numbers, wanted {count}")
    return values


def _scale(holders: list[Holder], name: str, default: float) -> float:
    values = [float(value) for value in _values(_first(holders, name))]
    if not all(map(math.isfinite, values)):
        raise ScanError(f"{name} is not finite")
    return values[0] if values else default


def _padding(values: Values) -> tuple[int, int] | None:
    """Stored values outside of the field of view; signed pixels may have them written as unsigned."""
    ends = [values.get("PixelPaddingValue"), values.get("PixelPaddingRangeLimit")]
    signed = bool(values.get("PixelRepresentation"))
    limits = sorted(_signed(int(end), signed) for end in ends if end is not None)
    return (limits[0], limits[-1]) if ends[0] is not None else None


def _signed(value: int, signed: bool) -> int:
    return value - 65536 if signed and value > 32767 else value


def _native(values: Values, syntax: str, pixels: Any, frames: int) -> Native | None:
    """None: the pixels are compressed, or not plain 16-bit numbers, and want a decoder."""
    plain = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if not plain or not isinstance(pixels, RawDataElement) or pixels.value is not None:
        return None
    bits, rows, columns = (int(values[name]) for name in ("BitsStored", "Rows", "Columns"))
    if (values.get("SamplesPerPixel", 1), values["BitsAllocated"], values.get("HighBit", bits - 1)) != (
        1,
        16,
        bits - 1,
    ):
        return None
    if pixels.length != frames * rows * columns * 2:
        raise ScanError(f"holds {pixels.length} bytes of pixels, wanted {frames} x {rows} x {columns} x 2")
    return Native(pixels.value_tell, bits, bool(values.get("PixelRepresentation")))


def _charge(values: Values) -> float | None:
    """Tube current times exposure time, mAs; else what the scanner calls exposure."""
    current, time = _number(values.get("XRayTubeCurrent")), _number(values.get("ExposureTime"))
    return current * time / 1000 if current and time else _number(values.get("Exposure"))


def _number(value: Any) -> float | None:
    """The first number of an element, or None if it is empty or no number."""
    try:
        number = float(_values(value)[0])
    except (IndexError, ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None


def _word(value: Any) -> str:
    """A code word such as a kernel's name, without anything that could be a sentence."""
    words = (re.sub(r"[^A-Za-z0-9_+.-]", "", str(part))[:16] for part in _values(value))
    return "/".join(word for word in words if word)


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]
