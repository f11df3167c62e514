"""Positions of slices along their normal, in mm: whether they are those of one scan."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from data_prep.errors import ScanError

SAME_POSITION_MM = 0.01
"""Slices that are closer lie at one position."""


def slice_step(heights: Sequence[float]) -> float:
    """Return the common distance of sorted heights.

    Raises:
        ScanError: one height is missing, or the distances differ.
    """
    positions = np.asarray(heights, dtype=np.float64)
    gaps = np.diff(positions)
    step = float(np.median(gaps))
    off = np.flatnonzero(np.abs(gaps - step) > 0.02 * step + 0.01)
    if not off.size:
        return step
    i = int(off[0])
    if np.abs(gaps / step - np.rint(gaps / step)).max() < 0.05:
        raise ScanError(
            f"a slice is missing: {gaps[i]:.2f} mm between positions {positions[i]:.2f} and "
            f"{positions[i + 1]:.2f} mm, elsewhere {step:.2f} mm"
        )
    raise ScanError(f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart, wanted one distance")


def is_even(heights: Sequence[float]) -> bool:
    """Whether these heights, in any order, have one distance."""
    ordered = sorted(heights)
    if any(upper - lower < SAME_POSITION_MM for lower, upper in pairwise(ordered)):
        return False
    try:
        slice_step(ordered)
    except ScanError:
        return False
    return True


def are_consecutive(groups: Sequence[Sequence[float]]) -> bool:
    """Whether the heights of each group end before those of the next one start."""
    ranges = sorted((min(heights), max(heights)) for heights in groups)
    return all(start - end >= SAME_POSITION_MM for (_, end), (start, _) in pairwise(ranges))


def do_alternate(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the heights of two stacks alternate, so that each seems to lack the slices of its partner."""
    ordered = sorted([*((height, 0) for height in first), *((height, 1) for height in second)])
    step = float(np.median(np.diff(sorted(first)))) if len(first) > 1 else 0.0
    changes = [b[0] - a[0] for a, b in pairwise(ordered) if a[1] != b[1]]
    return len(changes) > 1.6 * min(len(first), len(second)) - 1 > 1 and min(changes) > 0.1 * step
