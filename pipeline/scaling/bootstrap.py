"""Intervals by drawing again: seeds first, then the epochs of each drawn seed (Davison & Hinkley 1997, 3.8)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEVEL = 0.95
Numbers = NDArray[np.float64]


def means(groups: Sequence[Numbers], generator: np.random.Generator, draws: int = DRAWS) -> Numbers:
    """Means of ``draws`` samples: as many groups (seeds) as there are, with replacement, and of each its values.

    With one group of one value all are that value, and say nothing of its uncertainty.
    """
    chosen = generator.integers(len(groups), size=(draws, len(groups)))
    drawn = np.empty(chosen.shape)
    for number, values in enumerate(groups):
        places = chosen == number
        drawn[places] = values[generator.integers(len(values), size=(int(places.sum()), len(values)))].mean(axis=1)
    mean: Numbers = drawn.mean(axis=1)
    return mean


def interval(draws: Numbers) -> tuple[float, float]:
    """The central 95 % of the draws; NaN where they are all the same, as nothing was repeated."""
    if not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
