"""Texts of DICOM elements, in the character sets that their images declare (PS3.3 C.12.1.1.2), or in likelier ones."""

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from data_prep.readers.dicom_values import BROKEN, listed


def encodings_of(image: Dataset) -> list[str]:
    """Return Python's names of the character sets that an image declares; none where it declares none, or no known."""
    try:
        terms = listed(image.get("SpecificCharacterSet"))
        encodings = convert_encodings(terms) if any(terms) else []
    except (LookupError, *BROKEN):
        return []
    return [] if encodings == [default_encoding] else list(encodings)


def decode_text(stored: bytes, encodings: Sequence[str], *, is_name: bool = False) -> str:
    """Decode a text; without a declared set that fits, bytes beyond ASCII are UTF-8 if they can be, else Latin-1."""
    if encodings:
        text = str(decode_bytes(stored, list(encodings), PN_DELIMS if is_name else TEXT_VR_DELIMS))
        if "\ufffd" not in text:  # else they are not of the declared set
            return text
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored.decode("latin-1")
