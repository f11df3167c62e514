"""Laws of scaling fitted to a study: the serial fraction, Amdahl's law and the Universal Scalability Law."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from pipeline.scaling.analysis import POINT, Series, series_of
from pipeline.scaling.bootstrap import Numbers, interval

Fit = Callable[[Numbers, Numbers], dict[str, float]]


def karp_flatt(speed_up: float, ranks: float) -> float:
    """The serial fraction that a speed-up over one rank tells (Karp & Flatt 1990); NaN for one rank."""
    return np.nan if ranks == 1 else (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def fit_amdahl(ranks: Numbers, seconds: Numbers) -> dict[str, float]:
    """Serial fraction f of T(n) = T(1) (f + (1 - f) / n), Amdahl 1967, by least squares of relative errors, f >= 0."""
    serial, parallel = _non_negative(np.stack([np.ones_like(ranks), 1 / ranks], axis=1), seconds)
    return {"serial_fraction": serial / (serial + parallel)}


def fit_usl(ranks: Numbers, seconds: Numbers) -> dict[str, float]:
    """Contention and coherency of T(n) = T(1) (1 + contention (n - 1) + coherency n (n - 1)) / n.

    Gunther's Universal Scalability Law (2007), by least squares of relative errors, both >= 0. ``most_ranks``: where
    its speed-up is highest, infinite without coherency.
    """
    terms = np.stack([np.ones_like(ranks), ranks - 1, ranks * (ranks - 1)], axis=1) / ranks[:, None]
    one, contention, coherency = _non_negative(terms, seconds)
    contention, coherency = contention / one, coherency / one
    most = np.sqrt(max(0.0, 1 - contention) / coherency) if coherency else np.inf
    return {"contention": contention, "coherency": coherency, "most_ranks": float(most)}


def _non_negative(terms: Numbers, seconds: Numbers) -> list[float]:
    found, _ = nnls(terms / seconds[:, None], np.ones_like(seconds))
    return [float(value) for value in found]


_LAWS: tuple[tuple[str, Fit, int], ...] = (("Amdahl", fit_amdahl, 2), ("USL", fit_usl, 3))


def laws(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """A row a parameter: ``slices … work, law, parameter, ranks, value, low, high, reason``.

    ``ranks``: the count that a Karp-Flatt fraction is of, or the counts that were fitted. The interval is the
    bootstrap's over seeds and epochs. Where there are too few rank counts, no one rank, or weak scaling, the value is
    empty and ``reason`` says so. Tables as :func:`~pipeline.scaling.analysis.series_of` takes them.
    """
    rows = [{**series.what, **row} for series in series_of(cells, epochs) for row in _rows(series)]
    return pd.DataFrame(rows, columns=[*POINT, "law", "parameter", "ranks", "value", "low", "high", "reason"])


def _rows(series: Series) -> Iterator[dict[str, object]]:
    first, counts = series.points[0], [point.ranks for point in series.points]
    listed = " ".join(map(str, counts))
    why_not = ""
    if series.what["work"] == "weak":
        why_not = "weak scaling: these laws are of a fixed amount of work"
    elif first.ranks != 1:
        why_not = f"the fewest ranks are {first.ranks}: one rank is needed"
    if why_not:
        yield {"law": "all", "ranks": listed, "reason": why_not}
        return
    for point in series.points[1:]:
        value = karp_flatt(first.mean / point.mean, point.ranks)
        draws = np.array([karp_flatt(a / b, point.ranks) for a, b in zip(first.draws, point.draws, strict=True)])
        low, high = interval(draws)
        yield {"law": "Karp-Flatt", "parameter": "serial_fraction", "ranks": str(point.ranks), "value": value,
               "low": low, "high": high, "reason": ""}  # fmt: skip
    for name, fit, least in _LAWS:
        if len(counts) < least:
            yield {"law": name, "ranks": listed, "reason": f"{len(counts)} rank counts, {least} are needed"}
        else:
            yield from _fitted(series, name, fit, listed, exact=len(counts) == least)


def _fitted(series: Series, name: str, fit: Fit, listed: str, *, exact: bool) -> Iterator[dict[str, object]]:
    ranks = np.array([point.ranks for point in series.points], float)
    values = fit(ranks, np.array([point.mean for point in series.points]))
    drawn = [fit(ranks, seconds) for seconds in _draws(series)]
    for parameter, value in values.items():
        low, high = interval(np.array([one[parameter] for one in drawn]))
        reason = "as many parameters as points: nothing is left to test the law" if exact else ""
        yield {"law": name, "parameter": parameter, "ranks": listed, "value": value, "low": low, "high": high,
               "reason": reason}  # fmt: skip


def _draws(series: Series) -> Sequence[Numbers]:
    return list(np.stack([point.draws for point in series.points], axis=1))
