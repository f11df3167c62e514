"""Elements of a source image as texts, however its file stores them: of a frame, its functional groups first."""

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from data_prep.readers.character_sets import decode_text, encodings_of
from data_prep.readers.dicom_values import BROKEN, listed, macros_of

_STRINGS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UN", None})
"""Representations whose bytes are text; of UN and where none is stored, the dictionary knows."""


class SourceFrame:
    """Frame ``index`` of an image, or a whole image of one frame."""

    def __init__(self, image: Dataset, index: int) -> None:
        self.image, self.is_multi_frame = image, "PerFrameFunctionalGroupsSequence" in image
        self._holders = [image]
        if self.is_multi_frame:
            groups = [image.PerFrameFunctionalGroupsSequence[index], *image.get("SharedFunctionalGroupsSequence", [])]
            self._holders = [*(macro for group in groups for macro in macros_of(group)), image]
        self._encodings = encodings_of(image)

    def texts(self, keyword: str) -> list[str]:
        """Return the values of an element, without padding; empty if it is absent, empty or unreadable."""
        holder = next((holder for holder in self._holders if keyword in holder), None)
        if holder is None:
            return []
        try:
            texts = _texts(holder, keyword, self._encodings)
        except BROKEN:
            return []
        return texts if any(texts) else []

    def text(self, keyword: str) -> str:
        """Return an element of one value; several are joined by the backslash that stands between them."""
        return "\\".join(self.texts(keyword))

    def stored(self, keyword: str) -> bytes:
        """Return the bytes of an element of the image, without padding, if it is a text; else none."""
        element = self.image.get_item(keyword) if keyword in self.image else None
        stored = element.value if isinstance(element, RawDataElement) else b""
        return stored.strip(b" \0") if isinstance(stored, bytes) else b""

    def sequence(self, keyword: str) -> list["SourceFrame"]:
        """Return the items of a sequence of the image; none if it is absent or unreadable."""
        try:
            return [SourceFrame(item, 0) for item in self.image.get(keyword) or ()]
        except BROKEN:
            return []


def _texts(holder: Dataset, keyword: str, encodings: Sequence[str]) -> list[str]:
    element: Any = holder.get_item(keyword)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes) and element.VR in _STRINGS:
        texts = decode_text(element.value, encodings, is_name=keyword == "PatientName").split("\\")
    else:
        texts = [str(value) for value in listed(holder[keyword].value)]
    return [text.strip(" \0") for text in texts]
