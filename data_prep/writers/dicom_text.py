"""Texts as elements of DICOM may hold them (PS3.5, 6.2): each is valid for its value representation, or empty."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date

from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.valuerep import format_number_as_ds

LO_BYTES, ST_BYTES = 64, 1024  # the standard counts characters, some validators the bytes of UTF-8
_SH_BYTES, _CS_CHARACTERS, _DS_CHARACTERS, _UID_CHARACTERS = 16, 16, 16, 64
_PN_GROUPS, _PN_COMPONENTS, _PN_GROUP_BYTES = 3, 5, 64
_IS_RANGE = range(-(2**31), 2**31)
_REPLACEMENT = "\ufffd"  # stands for bytes that are no character
_TAG_DIGITS = 8  # of a digest that tells cut texts apart

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)", re.ASCII)  # with points: ACR-NEMA, which PS3.5 6.2 lets readers take
_TIME = re.compile(r"([01]\d|2[0-3])(?:(:?)([0-5]\d)(?:\2([0-5]\d)(\.\d{1,6})?)?)?", re.ASCII)
_MOMENT = re.compile(r"(\d{8})(?:(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?))?([+-]\d{4})?", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
_CODE = re.compile(r"[A-Z0-9_ ]+", re.ASCII)
_UID = re.compile(r"([01]\.(\d|[123]\d)|2\.(0|[1-9]\d*))(\.(0|[1-9]\d*))*", re.ASCII)

_ENUMERATED: Mapping[str, frozenset[str]] = {
    "PatientSex": frozenset({"M", "F", "O"}),
    "Laterality": frozenset({"L", "R"}),
    "BurnedInAnnotation": frozenset({"YES", "NO"}),
    "PatientIdentityRemoved": frozenset({"YES", "NO"}),
    "LossyImageCompression": frozenset({"00", "01"}),
    "RotationDirection": frozenset({"CW", "CC"}),
    "VOILUTFunction": frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}),
}
_LEAST = {"SpacingBetweenSlices": 0.0, "KVP": 0.0, "PatientSize": 0.0, "PatientWeight": 0.0, "SliceThickness": 1e-6}
_LARGEST = 1e6  # mm, kV, m, kg: more is no measurement


def valid_texts(keyword: str, texts: Sequence[str]) -> list[str]:
    """Return the values of an element as the standard allows them; empty if they cannot be had of these.

    A number that is too long is written shorter. What is no number, date, code or age at all is left out, and texts
    that are too long are cut.
    """
    vr, multiplicity = dictionary_VR(keyword), dictionary_VM(keyword)
    if multiplicity == "1" and vr in ("LO", "SH", "PN"):
        texts = ["/".join(texts)]  # the backslash between them was meant as a character
    valid = [_VALIDATORS[vr](text.strip(" \0")) for text in texts]
    allowed = _ENUMERATED.get(keyword)
    if not all(valid) or not _has_multiplicity(len(valid), multiplicity) or (allowed and not allowed.issuperset(valid)):
        return []
    return valid if keyword not in _LEAST or _LEAST[keyword] <= float(valid[0]) < _LARGEST else []


def unique_text(keyword: str, text: str, source: bytes = b"") -> str:
    """Return an identifier as its element may hold it; if it must be changed for that, a digest keeps it unique.

    ``source``: what the text was made of, if that tells more than the text itself.
    """
    limit = {"LO": LO_BYTES, "SH": _SH_BYTES}[dictionary_VR(keyword)]
    valid = _without_controls(text).replace("\\", "/").strip()
    if cut_text(valid, limit) == text and _REPLACEMENT not in text:
        return text
    digest = hashlib.sha256(source or text.encode(errors="surrogatepass")).hexdigest()[:_TAG_DIGITS]
    return f"{cut_text(valid, limit - _TAG_DIGITS - 1)}-{digest}"


def cut_text(text: str, limit: int) -> str:
    """Return as much of a text as takes at most ``limit`` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore").strip()


def readable(text: str) -> str:
    """Return a text in which bytes that are no UTF-8 stand as the replacement character."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def is_uid(text: str) -> bool:
    """Whether a text is a valid UID (PS3.5, 9.1)."""
    return len(text) <= _UID_CHARACTERS and _UID.fullmatch(text) is not None


def format_number(number: float) -> str:
    """Return a decimal string of at most 16 characters."""
    return format_number_as_ds(float(number))


def person_name(text: str) -> str:
    """Return a name of at most three groups of five components."""
    groups = _without_controls(text).replace("\\", "/").split("=")[:_PN_GROUPS]
    return "=".join(map(_name_group, groups)).rstrip("=")


def _name_group(group: str) -> str:
    *components, last = group.split("^", _PN_COMPONENTS - 1)
    return cut_text("^".join([*components, last.replace("^", " ")]), _PN_GROUP_BYTES)


def _has_multiplicity(count: int, multiplicity: str) -> bool:
    low, _, high = multiplicity.partition("-")
    return count >= int(low) if high == "n" else int(low) <= count <= int(high or low)


def _without_controls(text: str) -> str:
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in readable(text))


def _cut(limit: int) -> Callable[[str], str]:
    return lambda text: cut_text(_without_controls(text), limit)


def _code(text: str) -> str:
    code = text.upper()
    return code if len(code) <= _CS_CHARACTERS and _CODE.fullmatch(code) else ""


def _date(text: str) -> str:
    match = _DATE.fullmatch(text)
    try:
        return "".join(match.group(1, 3, 4)) if match and date(*map(int, match.group(1, 3, 4))) else ""
    except ValueError:
        return ""


def _time(text: str) -> str:
    return text.replace(":", "") if _TIME.fullmatch(text) else ""


def _moment(text: str) -> str:
    match = _MOMENT.fullmatch(text)
    is_valid = match and _date(match[1]) and (not match[2] or _time(match[2]))
    return text if is_valid else ""


def _decimal(text: str) -> str:
    if not _NUMBER.fullmatch(text) or float(text) in (float("inf"), float("-inf")):
        return ""
    return text if len(text) <= _DS_CHARACTERS else format_number_as_ds(float(text))


def _integer(text: str) -> str:
    number = float(text) if _decimal(text) else float("nan")
    return str(int(number)) if number.is_integer() and int(number) in _IS_RANGE else ""


def _age(text: str) -> str:
    return text if _AGE.fullmatch(text) else ""


_VALIDATORS: Mapping[str, Callable[[str], str]] = {
    "AS": _age, "CS": _code, "DA": _date, "DS": _decimal, "DT": _moment, "IS": _integer, "LO": _cut(LO_BYTES),
    "PN": person_name, "SH": _cut(_SH_BYTES), "TM": _time,
}  # fmt: skip
