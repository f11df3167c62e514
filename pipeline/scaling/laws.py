"""Laws of scaling fitted to a study: the serial fraction, Amdahl's law and the Universal Scalability Law."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from pipeline.scaling.estimates import Estimate, Numbers, ratio_interval, sum_interval
from pipeline.scaling.points import SERIES_SETTINGS
from pipeline.scaling.series import Point, RankSeries, rank_series

_STEP = 1e-4  # of a time's logarithm, for the slope of a parameter


def karp_flatt(speed_up: float, ranks: float) -> float:
    """Return the serial fraction behind a speed-up of several ranks over one (Karp & Flatt 1990)."""
    return (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


class Law:
    """A law of the time on n ranks, as a sum of terms with factors that are not negative.

    ``terms``: of an array of rank counts (n,), (n, factors); ``parameters``: of the factors, by name; each lies
    between 0 and ``largest``. ``needed``: rank counts that a fit needs.
    """

    def __init__(
        self, name: str, terms: Callable[[Numbers], Numbers], parameters: Callable[[Numbers], dict[str, float]],
        largest: float,
    ) -> None:  # fmt: skip
        self.name, self.terms, self.parameters, self.largest = name, terms, parameters, largest
        self.needed = terms(np.ones(1)).shape[1]

    def fit(self, ranks: Numbers, seconds: Numbers) -> dict[str, float]:
        """Fit the parameters by least squares of relative errors."""
        return self.parameters(nnls(self._relative(ranks, seconds), np.ones_like(seconds))[0])

    def intervals(self, ranks: Numbers, points: Sequence[Estimate]) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each parameter, from its slope in each point's time (delta method).

        Of a fit whose factors may be negative, as a factor that is held at 0 has no slope; then cut to what is
        possible, which leaves the truth inside as often.
        """
        logs: Numbers = np.log([point.mean for point in points])
        centre = self._unbounded(ranks, np.exp(logs))
        slopes = [self._slopes(ranks, logs, row) for row in np.eye(len(points))]
        return {name: self._cut(sum_interval(value, [slope[name] for slope in slopes], points))
                for name, value in centre.items()}  # fmt: skip

    def _slopes(self, ranks: Numbers, logs: Numbers, direction: Numbers) -> dict[str, float]:
        after, before = (self._unbounded(ranks, np.exp(logs + sign * _STEP * direction)) for sign in (1, -1))
        return {name: (after[name] - before[name]) / (2 * _STEP) for name in after}

    def _unbounded(self, ranks: Numbers, seconds: Numbers) -> dict[str, float]:
        factors = np.linalg.lstsq(self._relative(ranks, seconds), np.ones_like(seconds))[0]
        return self.parameters(factors.astype(np.float64))

    def _relative(self, ranks: Numbers, seconds: Numbers) -> Numbers:
        return self.terms(ranks) / seconds[:, None]

    def _cut(self, bounds: tuple[float, float]) -> tuple[float, float]:
        low, high = np.clip(bounds, 0, self.largest)
        return float(low), float(high)


AMDAHL = Law(
    "Amdahl", lambda n: np.stack([np.ones_like(n), 1 / n], axis=1), lambda x: {"serial_fraction": x[0] / x.sum()}, 1
)
"""T(n) = T(1) (f + (1 - f) / n); Amdahl 1967."""

USL = Law(
    "USL", lambda n: np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) / n[:, None],
    lambda x: {"contention": x[1] / x[0], "coherency": x[2] / x[0]}, np.inf,
)  # fmt: skip
"""T(n) = T(1) (1 + contention (n - 1) + coherency n (n - 1)) / n: Gunther's Universal Scalability Law (2007)."""


def laws(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Fit each law to each series, without points whose trainings were disturbed: a row a parameter.

    Columns: ``network … data, law, parameter, ranks, value, low, high, interval_over, reason``.

    ``ranks``: the count that a Karp-Flatt fraction is of, or the counts that were fitted. ``low`` and ``high`` are a
    95 % interval over what ``interval_over`` says. With too few rank counts, without a single rank, or in weak
    scaling, the value is empty and ``reason`` says why. ``most_ranks``: where the speed-up of the USL is highest, 1
    where more ranks are slower, infinite without coherency. Arguments as those of
    :func:`~pipeline.scaling.series.rank_series`.
    """
    rows = [{**series.settings, **_with_doubts(row, series)}
            for series in rank_series(cells, epochs) for row in _rows(series)]  # fmt: skip
    columns = [*SERIES_SETTINGS, "law", "parameter", "ranks", "value", "low", "high", "interval_over", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _with_doubts(row: dict[str, object], series: RankSeries) -> dict[str, object]:
    return {**row, "reason": "; ".join(filter(None, [str(row["reason"]), series.doubts]))}


def _rows(series: RankSeries) -> Iterator[dict[str, object]]:
    counts = [point.ranks for point in series.usable]
    listed, obstacle = " ".join(map(str, counts)), _obstacle(series)
    if obstacle:
        yield {"law": "all", "ranks": listed, "reason": obstacle}
        return
    yield from _karp_flatt_rows(series)
    for law in (AMDAHL, USL):
        if len(counts) < law.needed:
            reason = f"{len(counts)} of {law.needed} rank counts that are needed"
            yield {"law": law.name, "ranks": listed, "reason": reason}
        else:
            yield from _fitted(series, law, listed)


def _obstacle(series: RankSeries) -> str:
    if series.settings["work"] == "weak":
        return "weak scaling: these laws are of a fixed amount of work"
    if not series.usable:
        return "no training to fit"
    fewest = series.usable[0].ranks
    return "" if fewest == 1 else f"the fewest ranks are {fewest}: one rank is needed"


def _karp_flatt_rows(series: RankSeries) -> Iterator[dict[str, object]]:
    first, *points = series.usable
    for point in points:
        fraction = karp_flatt(first.seconds.mean / point.seconds.mean, point.ranks)
        slow, fast = ratio_interval(first.seconds, point.seconds)
        low, high = karp_flatt(fast, point.ranks), karp_flatt(slow, point.ranks)
        reason = "below 0: efficiency above 100 %, see speedup.csv" if fraction < 0 else ""
        yield {"law": "Karp-Flatt", "parameter": "serial_fraction", "ranks": str(point.ranks), "value": fraction,
               "low": low, "high": high, "interval_over": _over([first, point]), "reason": reason}  # fmt: skip


def _over(points: Sequence[Point]) -> str:
    return "; ".join(dict.fromkeys(point.seconds.over for point in points))


def _fitted(series: RankSeries, law: Law, listed: str) -> Iterator[dict[str, object]]:
    ranks, points = np.array([point.ranks for point in series.usable], float), series.usable
    parameters = law.fit(ranks, np.array([point.seconds.mean for point in points]))
    bounds = law.intervals(ranks, [point.seconds for point in points])
    if law is USL:
        parameters["most_ranks"] = _most_ranks(parameters["contention"], parameters["coherency"])
    is_exact = len(points) == law.needed
    exact = "as many parameters as points: nothing is left to test the law" if is_exact else ""
    for parameter, value in parameters.items():
        low, high = _holding(value, bounds.get(parameter, (np.nan, np.nan)))
        over = _over(points) if parameter in bounds else "none: it follows from contention and coherency"
        held = "held at 0: below it beyond its interval, see speedup.csv" if high == 0 else ""
        yield {"law": law.name, "parameter": parameter, "ranks": listed, "value": value, "low": low, "high": high,
               "interval_over": over, "reason": "; ".join(filter(None, [exact, held]))}  # fmt: skip


def _holding(value: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Widen an interval, if there is one, so that it holds a value that the fit could not let be negative."""
    low, high = bounds
    return min(low, value), max(high, value)


def _most_ranks(contention: float, coherency: float) -> float:
    """Return the rank count at which the USL's speed-up is highest: 1 if it only falls, infinite if it never does."""
    if contention >= 1:
        return 1.0
    return max(1.0, float(np.sqrt((1 - contention) / coherency))) if coherency else np.inf
