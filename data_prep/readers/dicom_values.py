"""Values of DICOM elements by keyword, and what they say of a scan: they come from a DICOM image, or from JSON."""

import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

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
_NUMBER_TEXT = re.compile(r"[-+0-9.,eE\\/ ]{1,40}")
_AMBIGUOUS = (0x00280120, 0x00280121)  # padding: another element says whether it is signed
_PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE"}  # types of images (PS3.3 C.8.15.2; scanners)
_UNDEFINED = 0xFFFFFFFF  # length of a value that ends with a mark

Values = dict[str, Any]


def is_file_fault(error: Exception) -> bool:
    """Whether the bytes of a file are at fault, not the disk or a permission."""
    return not isinstance(error, OSError) or error.errno is None


@contextmanager
def broken_as_scan_error(reason: str) -> Iterator[None]:
    """Turn what pydicom raises on a broken file into a ScanError with this reason; other faults pass."""
    try:
        yield
    except ScanError:
        raise
    except (OSError, *BROKEN) as error:
        if not is_file_fault(error):
            raise
        raise ScanError(reason) from error


def values_of(image: Dataset) -> Values:
    """Return the values of a data set by keyword.

    Raises:
        ScanError: an element holds what its kind does not allow.
    """
    return dict(_keyword_and_value(image, tag) for tag in image.keys())  # noqa: SIM118 - a Dataset yields elements


def _keyword_and_value(image: Dataset, tag: BaseTag) -> tuple[str, Any]:
    """Convert one element; a series repeats most values, so the conversion is cached: it takes half of the time."""
    raw = image.get_item(tag)
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) and len(raw.value) < raw.length != _UNDEFINED:
        raise ScanError("is cut off inside its header")
    try:
        if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes) or tag in _AMBIGUOUS:
            return image[tag].keyword, image[tag].value
        return _convert(tag, raw.VR, raw.value, raw.is_implicit_VR, raw.is_little_endian)
    except (OSError, *BROKEN) as error:
        if not is_file_fault(error):
            raise
        return keyword_for_tag(tag), _numbers_in(keyword_for_tag(tag), raw)


@lru_cache(1024)
def _convert(tag: BaseTag, vr: str | None, raw: bytes, implicit: bool, little: bool) -> tuple[str, Any]:
    element = convert_raw_data_element(RawDataElement(tag, vr, len(raw), raw, 0, implicit, little))
    return element.keyword, element.value


def _numbers_in(keyword: str, raw: Any) -> list[float]:
    """Return the numbers in an element that pydicom refuses, such as a current of 201.6 mA as an IS."""
    text = raw.value.decode("latin-1") if isinstance(getattr(raw, "value", None), bytes) else ""
    try:
        return [float(part) for part in text.strip(" \0").split("\\")]
    except ValueError as error:
        raise ScanError(f"{keyword} is {describe(text)}, which its kind of element cannot hold") from error


def acquisition_of(first: Callable[[str], Any]) -> Acquisition:
    """Return how an image was acquired, as far as is known; ``first`` gives the value of a keyword, or None."""
    kernel, thickness = code_words(first("ConvolutionKernel")), _first_number(first("SliceThickness"))
    return Acquisition(kernel, _first_number(first("KVP")), _charge(first), thickness)


def _charge(first: Callable[[str], Any]) -> float | None:
    """Tube current times exposure time, mAs; else what the scanner calls exposure. Enhanced images name units."""
    current = _first_number(first("XRayTubeCurrent")) or _first_number(first("XRayTubeCurrentInmA"))
    time = _first_number(first("ExposureTime")) or _first_number(first("ExposureTimeInms"))
    if current and time:
        return current * time / 1000
    return _first_number(first("Exposure")) or _first_number(first("ExposureInmAs"))


def exclusion_of(values: Values) -> str:
    """Return why an image is no slice of a CT scan by its kind, or an empty text if it may be one."""
    modality = code_words(values.get("Modality")).upper() or "CT"
    kinds = {str(kind).upper() for kind in listed(values.get("ImageType"))}
    if modality != "CT":
        return f"modality is {modality}, wanted CT"
    if "Secondary Capture" in getattr(values.get("SOPClassUID"), "name", "") or "SCREEN SAVE" in kinds:
        return "a secondary capture, not a scanner's image"
    if kinds & {"LOCALIZER", "SCOUT"}:
        return "a localizer"
    return "a projection of several slices" if kinds & _PROJECTIONS else ""


def macros_of(group: Dataset) -> list[Dataset]:
    """Return the first item of each sequence in functional groups; private ones may describe other images."""
    elements = (element for element in group if not element.tag.is_private)
    return [element.value[0] for element in elements if element.VR == "SQ" and element.value]


def listed(element: Any) -> list[Any]:
    """Return the values of an element as a list; empty for an empty element."""
    if element is None or element == "":
        return []
    return list(element) if isinstance(element, MultiValue | list | tuple) else [element]


def describe(element: Any) -> str:
    r"""Return an element as text, where it holds numbers such as ``0,7\0,7``: other text may be private."""
    text = "\\".join(str(value).strip(" \0") for value in listed(element))
    if not text:
        return "empty"
    return text if _NUMBER_TEXT.fullmatch(text) or text.lower().strip("+-") in ("nan", "inf") else "no number"


def _first_number(element: Any) -> float | None:
    """Return the first number of an element, or None if it is empty or no finite number."""
    try:
        number = float(listed(element)[0])
    except (IndexError, ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None


def code_words(element: Any) -> str:
    """Return code words such as a kernel's name, without spaces: they cannot hold a sentence."""
    words = (re.sub(r"[^A-Za-z0-9_+.-]", "", str(part))[:16] for part in listed(element))
    return "/".join(word for word in words if word)
