"""What the stored values of a DICOM image mean: their bits, padding, and the way to HU (PS3.3 C.7.6.3 and C.11.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError
from data_prep.readers.dicom_numbers import numbers_of, whole_number_of
from data_prep.readers.dicom_values import Values, code_words
from data_prep.volume import Numbers

_ALLOCATED = (8, 16, 32)
_RESCALE_TYPES = ("", "HU", "US")  # US: unspecified
_GREYS = ("", "MONOCHROME1", "MONOCHROME2")  # the first is displayed inverted; its HU are the same
_MAX_INTERCEPT = 1 << 30
_PADDING_HU = (-900.0, 3071.0)  # of values between, some are in every body


@dataclass(frozen=True)
class Bits:
    """Bits of a stored number: ``allocated`` for it, the lowest ``stored`` of which are used."""

    allocated: int
    stored: int
    signed: bool

    def extract(self, words: Numbers) -> Numbers:
        """Return the values of allocated words, whose unused bits may hold an overlay."""
        spare = words.itemsize * 8 - self.stored
        return (words << spare) >> spare if spare > 0 else words

    def reinterpret(self, number: int) -> int:
        """Return a word of the allocated bits that was written with the other sign."""
        word = number % (1 << self.allocated)
        return word - (1 << self.allocated) if self.signed and word >> (self.allocated - 1) else word

    def hold(self, numbers: tuple[int, int]) -> bool:
        """Whether the used bits can hold both numbers."""
        low = -(1 << (self.stored - 1)) if self.signed else 0
        return low <= min(numbers) and max(numbers) < low + (1 << self.stored)


@dataclass(frozen=True)
class Rescale:
    """HU are ``slope`` times the stored value plus ``intercept``; ``missing``: elements that do not say so."""

    slope: float
    intercept: float
    missing: tuple[str, ...] = ()

    def to_hu(self, stored: int) -> float:
        """Return the HU of a stored value."""
        return self.slope * stored + self.intercept

    def apply(self, stored: Numbers) -> Numbers:
        """Return HU of stored values; whole numbers where they are."""
        if self.slope == 1 and self.intercept.is_integer() and abs(self.intercept) < _MAX_INTERCEPT:
            return stored + np.int32(self.intercept) if stored.itemsize < 4 else stored + np.int64(self.intercept)
        return stored * self.slope + self.intercept

    def is_integer(self) -> bool:
        """Whether HU are the stored integers plus the intercept, so that they fit into int16."""
        return self.slope == 1 and self.intercept.is_integer() and -30000 < self.intercept <= 0


def bits_of(values: Values) -> Bits:
    """Return the bits of stored numbers.

    Raises:
        ScanError: the elements do not fit each other.
    """
    allocated, stored = (whole_number_of(name, values.get(name)) for name in ("BitsAllocated", "BitsStored"))
    if allocated not in _ALLOCATED:
        raise ScanError(f"BitsAllocated is {allocated}, wanted 8, 16 or 32")
    if not 1 <= stored <= allocated:
        raise ScanError(f"BitsStored is {stored}, wanted at most {allocated}, as BitsAllocated is")
    high = whole_number_of("HighBit", values.get("HighBit", stored - 1))
    if high != stored - 1:
        raise ScanError(f"HighBit is {high}, wanted {stored - 1}, one less than BitsStored")
    sign = whole_number_of("PixelRepresentation", values.get("PixelRepresentation", 0))
    if sign not in (0, 1):
        raise ScanError(f"PixelRepresentation is {sign}, wanted 0 or 1")
    return Bits(allocated, stored, sign == 1)


def padding_of(values: Values, bits: Bits) -> tuple[int, int] | None:
    """Return the range of stored values outside the field of view; ends that were written with the other sign fit."""
    if values.get("PixelPaddingValue") is None:
        return None
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ends = [bits.reinterpret(whole_number_of(n, values[n])) for n in names if values.get(n) is not None]
    return min(ends), max(ends)


def check_padding(padding: tuple[int, int] | None, rescale: Rescale) -> None:
    """Check that a range of padding values spares those of a body.

    Raises:
        ScanError: it does not.
    """
    if padding is None or padding[0] == padding[1]:
        return
    low, high = sorted(map(rescale.to_hu, padding))
    if low < _PADDING_HU[1] and high > _PADDING_HU[0]:
        raise ScanError(
            f"PixelPaddingValue and PixelPaddingRangeLimit take {low:g} to {high:g} HU for padding, where a body is"
        )


def locate_padding(mask: NDArray[np.bool_], hu: float) -> NDArray[np.bool_]:
    """Return which of the voxels with the padding's value, in HU, are padding: all, or those outside of a body.

    A value that a body has too is padding where it fills a row or a column up to an edge of the image.

    Raises:
        ScanError: a body has the value too, and it lies in no corner.
    """
    if not _PADDING_HU[0] < hu < _PADDING_HU[1] or not mask.any():
        return mask
    if not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any():
        raise ScanError(f"PixelPaddingValue stands for {hu:g} HU, which lies inside the image and in no corner of it")
    views = (mask, mask[::-1], mask.T, mask.T[::-1])
    from_top, from_bottom, from_left, from_right = (np.logical_and.accumulate(view) for view in views)
    return from_top | from_bottom[::-1] | from_left.T | from_right[::-1].T


def rescale_of(first: Callable[[str], Any]) -> Rescale:
    """Return the way to HU; ``first`` gives the value of a keyword, or None. A missing slope is 1, an intercept 0.

    Raises:
        ScanError: the elements give no HU.
    """
    scale = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
    missing = tuple(name for name in scale if first(name) in (None, ""))
    for name in scale.keys() - {*missing}:
        (scale[name],) = numbers_of(name, first(name), 1)
    if scale["RescaleSlope"] == 0:
        raise ScanError("RescaleSlope is 0, which makes all voxels equal")
    if first("ModalityLUTSequence"):
        raise ScanError("ModalityLUTSequence gives the values, wanted RescaleSlope and RescaleIntercept")
    return Rescale(scale["RescaleSlope"], scale["RescaleIntercept"], missing)


def kind_exclusion_of(first: Callable[[str], Any]) -> str:
    """Return why pixels are no HU by their kind, or an empty text; ``first`` gives the value of a keyword, or None."""
    photometric, rescale = (code_words(first(name)) for name in ("PhotometricInterpretation", "RescaleType"))
    if photometric not in _GREYS or first("SamplesPerPixel") not in (None, "", 1):
        return f"PhotometricInterpretation is {photometric or 'unknown'}, wanted MONOCHROME2"
    return f"RescaleType is {rescale}, wanted HU" if rescale not in _RESCALE_TYPES else ""


def as_signed_words(stored: Numbers) -> Numbers:
    """Return 16-bit values that are never negative as int16 where they fit, which is read faster."""
    return stored.view(np.int16) if stored.dtype == np.uint16 and stored.max(initial=0) < 1 << 15 else stored
