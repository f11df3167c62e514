"""Images that are set aside and may be slices of a scan none the less: it would lack them in silence."""

import math
from dataclasses import dataclass
from typing import Any

from data_prep.readers.dicom_values import BROKEN, Values, exclusion_of, listed


@dataclass(frozen=True)
class Plane:
    """Where an image lies, as far as it says: unknown numbers are NaN, unknown sizes 0.

    ``position`` and ``spacing`` (down, right) in mm, ``orientation`` in direction cosines; ``shape``: rows, columns.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]


def suspect_plane(values: Values) -> Plane | None:
    """Return the plane of an image that is set aside, or None if it is no slice in any case.

    What says that it is of another kind is believed, unless it lies in the patient and names its series.
    """
    if not _is_image_class(values.get("SOPClassUID")):
        return None
    plane = Plane(
        _numbers(values, "ImagePositionPatient", 3),
        _numbers(values, "ImageOrientationPatient", 6),
        _numbers(values, "PixelSpacing", 2),
        (_size(values, "Rows"), _size(values, "Columns")),
    )
    is_placed = all(plane.shape) and not any(map(math.isnan, (*plane.position, *plane.orientation, *plane.spacing)))
    is_believed = exclusion_of(values) and not (is_placed and values.get("SeriesInstanceUID"))
    return None if is_believed else plane


def _is_image_class(sop_class: Any) -> bool:
    """Whether a SOP class is one of images, or unknown."""
    name = getattr(sop_class, "name", "")
    return "Storage" not in name or "Image Storage" in name


def _numbers(values: Values, name: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in listed(values.get(name)))
    except BROKEN:
        numbers = ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else (math.nan,) * count


def _size(values: Values, name: str) -> int:
    (number,) = _numbers(values, name, 1)
    return 0 if math.isnan(number) else int(number)
