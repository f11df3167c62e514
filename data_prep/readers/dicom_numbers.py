"""Numbers in DICOM elements; the reason for those that are wrong names the element and what it holds."""

import math
from typing import Any

from data_prep.errors import ScanError
from data_prep.readers.dicom_values import describe, listed


def numbers_of(name: str, element: Any, count: int) -> tuple[float, ...]:
    """Return so many finite numbers.

    Raises:
        ScanError: the element holds anything else.
    """
    values = listed(element)
    if len(values) != count:
        raise ScanError(f"{name} holds {len(values)} numbers, wanted {count}")
    try:
        numbers = tuple(map(float, values))
    except (ValueError, TypeError, OverflowError) as error:
        raise ScanError(f"{name} is {describe(element)}, wanted {count} numbers") from error
    if not all(map(math.isfinite, numbers)):
        raise ScanError(f"{name} is {describe(element)}, wanted finite numbers")
    return numbers


def whole_number_of(name: str, element: Any) -> int:
    """Return a whole number.

    Raises:
        ScanError: the element is missing, or holds anything else.
    """
    (number,) = numbers_of(name, element, 1)
    if not number.is_integer():
        raise ScanError(f"{name} is {describe(element)}, wanted a whole number")
    return int(number)
