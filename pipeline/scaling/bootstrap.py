"""Intervals by drawing again: seeds first, then the epochs of each drawn seed (Davison & Hinkley 1997, 3.8)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEVEL = 0.95
Numbers = NDArray[np.float64]


def means(groups: Sequence[Numbers], generator: np.random.Generator, draws: int = DRAWS) -> Numbers:
    """Draw as many groups (seeds) as there are, with replacement, then their values; return the mean of each draw.

    From one group of one value every draw is that value: nothing can be said of its uncertainty.
    """
    chosen = generator.integers(len(groups), size=(draws, len(groups)))
    drawn = np.empty(chosen.shape)
    for number, values in enumerate(groups):
        is_drawn = chosen == number
        drawn[is_drawn] = values[generator.integers(len(values), size=(int(is_drawn.sum()), len(values)))].mean(axis=1)
    mean: Numbers = drawn.mean(axis=1)
    return mean


def interval(draws: Numbers) -> tuple[float, float]:
    """Return the central 95 % of the draws; NaN where all draws are equal, since nothing was repeated."""
    if not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
