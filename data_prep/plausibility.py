"""Whether numbers can be those of a CT: lengths in mm, and HU of each slice and of the whole scan."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError

_PIXEL_MM = (0.05, 10.0)
_SLICE_MM = (0.05, 50.0)  # distance and thickness
_MAX_PLANE_MM = 1000.0  # no gantry is wider
_MAX_LENGTH_MM = 3000.0
_AIR_HU, _FAT_HU, _TISSUE_HU = -200, -50, 0
_MAX_METAL_HU, _MAX_METAL_SHARE = 3071, 0.1  # 12 bits end there; more is metal, in a few voxels
_MAX_HU = 32767  # more does not fit into int16


def check_pixel_size(name: str, mm: float) -> None:
    """Check that a pixel can be that wide; ``name``: the element that says so.

    Raises:
        ScanError: no CT has such pixels.
    """
    _check_length(name, mm, *_PIXEL_MM)


def check_slice_distance(name: str, mm: float) -> None:
    """Check that slices can be that far apart, or that thick; raises as :func:`check_pixel_size`."""
    _check_length(name, mm, *_SLICE_MM)


def check_extent(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    """Check that a body and a gantry can be that large; ``spacing``: mm along (z, y, x).

    Raises:
        ScanError: the scan is longer or wider than that.
    """
    length, *plane = (mm * voxels for mm, voxels in zip(spacing, shape, strict=True))
    _check_length("the scan's length", length, 0, _MAX_LENGTH_MM)
    _check_length("the width of a slice", max(plane), 0, _MAX_PLANE_MM)


def _check_length(name: str, mm: float, low: float, high: float) -> None:
    if not low <= mm <= high:
        raise ScanError(f"{name} is {mm:.6g} mm, for a CT between {low:g} and {high:g} mm")


class HuCheck:
    """Check the HU of a scan slice by slice, in any order; ``name_slice(z)`` names a slice in messages."""

    def __init__(self, name_slice: Callable[[int], str]) -> None:
        self._name_slice = name_slice
        self._extremes = dict[int, tuple[float, float]]()

    def add(self, z: int, hu: NDArray[Any]) -> None:
        """Check a slice, (rows, columns).

        Raises:
            ScanError: it holds no number, a single value, or values that no scanner gives.
        """
        lowest, highest = float(hu.min()), float(hu.max())
        reason = _no_image(hu, lowest, highest)
        if reason:
            raise ScanError(f"{self._name_slice(z)} {reason}")
        self._extremes[z] = lowest, highest

    def finish(self) -> None:
        """Check the scan, of which all slices were added.

        Raises:
            ScanError: air or tissue is missing, in the scan or in a slice between others.
        """
        lowest, highest = np.array([self._extremes[z] for z in sorted(self._extremes)]).T
        if lowest.min() > _AIR_HU or highest.max() < _TISSUE_HU:
            raise ScanError(f"values from {lowest.min():g} to {highest.max():g} are no HU: air or tissue is missing")
        body = np.flatnonzero(highest >= _TISSUE_HU)
        inner = np.flatnonzero(highest[: body[-1]] < _TISSUE_HU)
        for z in inner[inner > body[0]].tolist():
            raise ScanError(
                f"{self._name_slice(z)} has values from {lowest[z]:g} to {highest[z]:g}, which are no HU: "
                "tissue is missing, and slices on both sides have it"
            )


def _no_image(hu: NDArray[Any], lowest: float, highest: float) -> str:
    """Why a slice is no CT image, or an empty text."""
    if not np.isfinite(lowest + highest):
        return "holds NaN or infinity"
    if lowest == highest:
        return f"holds the value {lowest:g} alone: no HU of a scan"
    if lowest > _FAT_HU:
        return f"has values from {lowest:g} to {highest:g}, which are no HU: neither air nor fat is there"
    if excess := excess_of(highest):
        return excess
    share = np.count_nonzero(hu > _MAX_METAL_HU) / hu.size if highest > _MAX_METAL_HU else 0.0
    if share > _MAX_METAL_SHARE:
        return f"has values above {_MAX_METAL_HU} in {share:.0%} of its voxels, which are no HU of a body"
    return ""


def excess_of(highest: float) -> str:
    """Return why the highest value of a slice is no HU, or an empty text if a scanner may give it."""
    return f"holds {highest:g}, which is no HU: a scanner gives at most {_MAX_HU}" if highest > _MAX_HU else ""
