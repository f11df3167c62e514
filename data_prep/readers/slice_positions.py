"""Positions of slices along their normal, in mm: whether they are those of one scan."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from operator import sub

import numpy as np

from data_prep.errors import ScanError

SAME_POSITION_MM = 0.01
"""Slices that are closer lie at one position."""
MIN_EVEN_SLICES = 3
"""Two slices always have one distance."""
_MIN_PASS_SLICES = 5  # three short runs may come about by chance


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
    multiples = np.rint(gaps / step)
    wide = off[multiples[off] > 1]
    if wide.size and np.abs(gaps / step - multiples).max() < 0.05:
        i = int(wide[0])
        raise ScanError(
            f"a slice is missing: {gaps[i]:.2f} mm between positions {positions[i]:.2f} and "
            f"{positions[i + 1]:.2f} mm, elsewhere {step:.2f} mm"
        )
    raise ScanError(f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart, wanted one distance")


def is_even(heights: Sequence[float]) -> bool:
    """Whether these heights, in any order, have one distance."""
    if has_twins(heights):
        return False
    try:
        slice_step(sorted(heights))
    except ScanError:
        return False
    return True


def has_twins(heights: Sequence[float]) -> bool:
    """Whether two of these heights, in any order, are one position."""
    ordered = sorted(heights)
    return min(map(sub, ordered[1:], ordered), default=SAME_POSITION_MM) < SAME_POSITION_MM


def is_monotone(numbers: Sequence[float]) -> bool:
    """Whether these numbers rise, or fall, from each to the next."""
    return len({*numbers}) == len(numbers) and [*numbers] in (sorted(numbers), sorted(numbers, reverse=True))


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


def count_passes(heights: Sequence[float], numbers: Sequence[float]) -> int:
    """Count how often numbers run through slices from end to end: 1 unless the slices of the passes interleave."""
    by_number = defaultdict[float, list[float]](list)
    for height, number in zip(heights, numbers, strict=True):
        by_number[number].append(height)
    passes = _monotone_runs([by_number[number] for number in sorted(by_number)])
    min_slices = MIN_EVEN_SLICES if len(passes) == 2 else _MIN_PASS_SLICES
    are_stacks = all(len(run) >= min_slices and is_even(run) for run in passes)
    return len(passes) if are_stacks and not are_consecutive(passes) else 1


def _monotone_runs(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Join groups of heights as long as their means rise, or as long as they fall."""
    means = [sum(group) / len(group) for group in groups]
    runs, direction = [[*groups[0]]], 0
    for group, (previous, mean) in zip(groups[1:], pairwise(means), strict=True):
        turn = 1 if mean > previous else -1
        if direction in (0, turn):
            runs[-1].extend(group)
            direction = turn
        else:
            runs.append([*group])
            direction = 0
    return runs


def count_namesakes(heights: Sequence[float], numbers: Sequence[float]) -> int:
    """Count the slices of each number, if all numbers have as many and these are several stacks; else return 1."""
    by_number = defaultdict[float, list[float]](list)
    for height, number in sorted(zip(heights, numbers, strict=True)):
        by_number[number].append(height)
    counts = {len(group) for group in by_number.values()}
    if len(counts) > 1 or len(by_number) < MIN_EVEN_SLICES or are_consecutive([*zip(*by_number.values(), strict=True)]):
        return 1
    return counts.pop()
