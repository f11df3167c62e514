"""Means of correlated times with their variances, and 95 % intervals of what is computed from several of them.

The steps of a training are correlated, so their number says nothing of how well their mean is known. The units that
count are trainings (seeds) or, of a single training, blocks of neighbouring steps or epochs that are long against the
correlation (batch means: Law & Kelton 2000, 9.5). The variance is the one that a bootstrap of these units has, in
closed form and with n - 1 in place of n. Intervals are Student's with the freedoms of few units (Welch 1938,
Satterthwaite 1946), as percentiles of a bootstrap of three to six units are far too narrow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
MOST_BLOCKS = 6
"""Blocks of a single training: so few that a drift within the training, which joins neighbours, widens the interval."""
SHORTEST_BLOCK = 10
"""Steps: the mean of a block hardly knows its neighbour's at a lag-1 correlation of 0.65, as was measured of steps."""

Numbers = NDArray[np.float64]
NOTHING = (np.nan, np.nan)


@dataclass(frozen=True)
class Estimate:
    """A mean, the ``variance`` of this mean with its degrees of ``freedom``, and the units that it is ``over``.

    The variance is NaN, and the freedom 0, where nothing was repeated. ``is_shared``: the variance is by a spread that
    others have too.
    """

    mean: float
    variance: float
    freedom: int
    over: str
    is_shared: bool = False

    @property
    def relative_variance(self) -> float:
        """Variance of the mean's logarithm."""
        return self.variance / self.mean**2


def pooled(sums: Numbers, weights: Numbers, over: str) -> Estimate:
    """Estimate the total of ``sums`` over that of ``weights``, a unit an item, from how the units differ.

    A ratio estimator (Cochran 1977, 6.4): units with more steps count more.
    """
    count, mean = len(sums), sums.sum() / weights.sum()
    if count < 2:
        return Estimate(mean, np.nan, 0, over)
    residuals = (sums - mean * weights) / weights.sum()
    return Estimate(mean, float(count / (count - 1) * residuals @ residuals), count - 1, over)


class Spread(NamedTuple):
    """Relative variance between trainings that differ in their seed alone, with its degrees of freedom; 0, 0 without.

    It is taken to be the same on any number of ranks, and stands in for how other seeds than a single one would differ.
    """

    variance: float
    freedom: int


def spread_of(groups: Iterable[Sequence[float]]) -> Spread:
    """Pool the spread of several groups of trainings, each the seconds of its seeds."""
    logs = [np.log(seconds) for seconds in groups if len(seconds) > 1]
    freedom = sum(len(group) - 1 for group in logs)
    squares = sum(float(group.var() * len(group)) for group in logs)
    return Spread(squares / freedom, freedom) if freedom else Spread(0.0, 0)


def blocks(values: Numbers, count: int) -> Numbers:
    """Sum values over so many blocks of neighbours, as equal as can be, along the first axis."""
    starts = np.linspace(0, len(values), count, endpoint=False).astype(int)
    sums: Numbers = np.add.reduceat(values, starts, axis=0)
    return sums


def block_count(steps: int) -> int:
    """Return into how many blocks so many steps are divided; below 2 they are too few."""
    return min(MOST_BLOCKS, steps // SHORTEST_BLOCK)


def t_interval(centre: float, variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval about a sum of independent terms; NaN where a variance is unknown or nothing varied."""
    parts, counts = np.array(variances, float), np.array(freedoms, float)
    total = parts.sum()
    if not total > 0:  # NaN too
        return NOTHING
    varying = parts > 0
    freedom = total**2 / (parts[varying] ** 2 / counts[varying]).sum()
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(total))
    return centre - half, centre + half


def sum_interval(centre: float, slopes: Sequence[float], estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return the 95 % interval about what has these slopes in the logarithms of estimates of one study.

    The variances by a shared spread are one estimate, and so one term.
    """
    terms = [(estimate.is_shared, slope**2 * estimate.relative_variance, estimate.freedom)
             for slope, estimate in zip(slopes, estimates, strict=True)]  # fmt: skip
    independent = [(variance, freedom) for is_shared, variance, freedom in terms if not is_shared]
    shared = [(variance, freedom) for is_shared, variance, freedom in terms if is_shared]
    joint = [(sum(variance for variance, _ in shared), shared[0][1])] if shared else []
    return t_interval(centre, *zip(*independent, *joint, strict=True))


def ratio_interval(numerator: Estimate, denominator: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of two means, by its logarithm."""
    centre = float(np.log(numerator.mean / denominator.mean))
    low, high = np.exp(sum_interval(centre, [1, -1], [numerator, denominator]))
    return float(low), float(high)
