"""Laws of scaling fitted to a study: the serial fraction, Amdahl's law and the Universal Scalability Law."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from pipeline.scaling.analysis import RankSeries, rank_series
from pipeline.scaling.bootstrap import Numbers, interval
from pipeline.scaling.points import GRID_SETTINGS

Fit = Callable[[Numbers, Numbers], dict[str, float]]


def karp_flatt(speed_up: float, ranks: float) -> float:
    """Return the serial fraction behind a speed-up over one rank (Karp & Flatt 1990); NaN for one rank."""
    return np.nan if ranks == 1 else (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def fit_amdahl(ranks: Numbers, seconds: Numbers) -> dict[str, float]:
    """Fit the serial fraction f of T(n) = T(1) (f + (1 - f) / n), by least squares of relative errors; Amdahl 1967."""
    serial, parallel = _non_negative(np.stack([np.ones_like(ranks), 1 / ranks], axis=1), seconds)
    return {"serial_fraction": serial / (serial + parallel)}


def fit_usl(ranks: Numbers, seconds: Numbers) -> dict[str, float]:
    """Fit contention and coherency of T(n) = T(1) (1 + contention (n - 1) + coherency n (n - 1)) / n.

    Gunther's Universal Scalability Law (2007), by least squares of relative errors, both >= 0. ``most_ranks``: where
    its speed-up is highest, infinite without coherency.
    """
    terms = np.stack([np.ones_like(ranks), ranks - 1, ranks * (ranks - 1)], axis=1) / ranks[:, None]
    single, contention, coherency = _non_negative(terms, seconds)
    contention, coherency = contention / single, coherency / single
    peak = np.sqrt(max(0.0, 1 - contention) / coherency) if coherency else np.inf
    return {"contention": contention, "coherency": coherency, "most_ranks": float(peak)}


def _non_negative(terms: Numbers, seconds: Numbers) -> list[float]:
    factors, _ = nnls(terms / seconds[:, None], np.ones_like(seconds))
    return [float(factor) for factor in factors]


_LAWS: tuple[tuple[str, Fit, int], ...] = (("Amdahl", fit_amdahl, 2), ("USL", fit_usl, 3))
"""Name, fit, and the number of rank counts that the fit needs."""


def laws(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Fit each law to each series: a row a parameter.

    Columns: ``slices … work, law, parameter, ranks, value, low, high, reason``.

    ``ranks``: the count that a Karp-Flatt fraction is of, or the counts that were fitted. The interval is the
    bootstrap's over seeds and epochs. With too few rank counts, without a single rank, or in weak scaling, the value
    is empty and ``reason`` says why. Arguments as those of :func:`~pipeline.scaling.analysis.rank_series`.
    """
    rows = [{**series.settings, **row} for series in rank_series(cells, epochs) for row in _rows(series)]
    return pd.DataFrame(rows, columns=[*GRID_SETTINGS, "law", "parameter", "ranks", "value", "low", "high", "reason"])


def _rows(series: RankSeries) -> Iterator[dict[str, object]]:
    counts = [point.ranks for point in series.points]
    listed, obstacle = " ".join(map(str, counts)), _obstacle(series)
    if obstacle:
        yield {"law": "all", "ranks": listed, "reason": obstacle}
        return
    yield from _karp_flatt_rows(series)
    for name, fit, needed in _LAWS:
        if len(counts) < needed:
            yield {"law": name, "ranks": listed, "reason": f"{len(counts)} rank counts, {needed} are needed"}
        else:
            yield from _fitted(series, name, fit, listed, is_exact=len(counts) == needed)


def _obstacle(series: RankSeries) -> str:
    if series.settings["work"] == "weak":
        return "weak scaling: these laws are of a fixed amount of work"
    fewest = series.points[0].ranks
    return "" if fewest == 1 else f"the fewest ranks are {fewest}: one rank is needed"


def _karp_flatt_rows(series: RankSeries) -> Iterator[dict[str, object]]:
    first = series.points[0]
    for point in series.points[1:]:
        fraction = karp_flatt(first.mean / point.mean, point.ranks)
        draws = np.array([karp_flatt(a / b, point.ranks) for a, b in zip(first.draws, point.draws, strict=True)])
        low, high = interval(draws)
        yield {"law": "Karp-Flatt", "parameter": "serial_fraction", "ranks": str(point.ranks), "value": fraction,
               "low": low, "high": high, "reason": ""}  # fmt: skip


def _fitted(series: RankSeries, name: str, fit: Fit, listed: str, *, is_exact: bool) -> Iterator[dict[str, object]]:
    ranks = np.array([point.ranks for point in series.points], float)
    parameters = fit(ranks, np.array([point.mean for point in series.points]))
    drawn = [fit(ranks, seconds) for seconds in _draws(series)]
    reason = "as many parameters as points: nothing is left to test the law" if is_exact else ""
    for parameter, fitted in parameters.items():
        low, high = interval(np.array([draw[parameter] for draw in drawn]))
        yield {"law": name, "parameter": parameter, "ranks": listed, "value": fitted, "low": low, "high": high,
               "reason": reason}  # fmt: skip


def _draws(series: RankSeries) -> Sequence[Numbers]:
    return list(np.stack([point.draws for point in series.points], axis=1))
