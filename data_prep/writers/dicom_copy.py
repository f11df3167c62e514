"""Copies of a source's elements in a derived image: each is valid, by itself and beside the others, or left out."""

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from data_prep.readers.dicom_header import Frame
from data_prep.writers.dicom_source import SourceFrame
from data_prep.writers.dicom_text import format_number, unique_text, valid_texts

_IDENTIFIERS = frozenset({"PatientID", "AccessionNumber", "StudyID"})
_CODE_KEYWORDS = ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
_MAX_WIDTH = 1e6  # HU
_WINDOW = ("WindowCenter", "WindowWidth")
_WINDOW_WORDS = ("WindowCenterWidthExplanation", "VOILUTFunction")
_LOSS = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
_METHOD, _METHOD_CODES = "DeidentificationMethod", "DeidentificationMethodCodeSequence"


def copy_elements(image: Dataset, source: SourceFrame, keywords: Iterable[str]) -> None:
    """Copy what is valid of the source's elements; what another copied element needs is there, or neither is."""
    for keyword in keywords:
        texts = _texts(source, keyword)
        if texts:
            image.add_new(keyword, dictionary_VR(keyword), texts if len(texts) > 1 else texts[0])
    _check_window(image)
    _check_loss(image)


def copy_geometry(image: Dataset, frame: Frame) -> None:
    """Add position, orientation and pixel spacing as they were read, where the source's own words are not valid."""
    for keyword, numbers in (
        ("ImagePositionPatient", frame.position),
        ("ImageOrientationPatient", frame.orientation),
        ("PixelSpacing", frame.spacing),
    ):
        if keyword not in image:
            setattr(image, keyword, [format_number(number) for number in numbers])


def copy_deidentification(image: Dataset, source: SourceFrame) -> None:
    """Copy that identity was removed, together with the method by which it was; without a method neither."""
    copy_elements(image, source, ("PatientIdentityRemoved", _METHOD))
    codes = [code for item in source.sequence(_METHOD_CODES) if (code := _code(item))]
    if codes:
        setattr(image, _METHOD_CODES, codes)
    elif _METHOD not in image and image.get("PatientIdentityRemoved") == "YES":
        del image.PatientIdentityRemoved


def _texts(source: SourceFrame, keyword: str) -> list[str]:
    if keyword in _IDENTIFIERS:
        text = source.text(keyword)
        return [unique_text(keyword, text, source.stored(keyword))] if text else []
    return valid_texts(keyword, source.texts(keyword))


def _code(item: SourceFrame) -> Dataset | None:
    code = Dataset()
    copy_elements(code, item, _CODE_KEYWORDS)
    is_complete = {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"} <= set(code.dir())
    return code if is_complete else None


def _check_window(image: Dataset) -> None:
    """Leave out a window of which a part is missing, or of no width, and words for another number of them."""
    counts = [_count(image, keyword) for keyword in _WINDOW]
    if len({*counts}) > 1 or not all(1 <= float(width) < _MAX_WIDTH for width in _values(image, "WindowWidth")):
        _remove(image, (*_WINDOW, *_WINDOW_WORDS))
    if not _count(image, "WindowCenter"):
        _remove(image, _WINDOW_WORDS)
    elif _count(image, _WINDOW_WORDS[0]) not in (0, counts[0]):
        _remove(image, _WINDOW_WORDS[:1])


def _check_loss(image: Dataset) -> None:
    """Leave out ratios and methods of a lossy compression that is not said to have been, or that do not match."""
    counts = {_count(image, keyword) for keyword in _LOSS}
    if image.get("LossyImageCompression") != "01" or len(counts) > 1:
        _remove(image, _LOSS)


def _values(image: Dataset, keyword: str) -> list[str]:
    content = image.get(keyword)
    return [] if content is None else list(content) if image[keyword].VM > 1 else [content]


def _count(image: Dataset, keyword: str) -> int:
    return len(_values(image, keyword))


def _remove(image: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if keyword in image:
            delattr(image, keyword)
