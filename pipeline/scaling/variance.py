"""How much quality varies across slices, scans, data sets and seeds, against the number of ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.quality.measures import names, slice_measures
from pipeline.quality.statistics import holm
from pipeline.scaling.estimates import Numbers
from pipeline.scaling.points import COMPARABLE, SERIES_SETTINGS, finished_in_grid

METRICS = names(slice_measures("paper"))
SEED, PERMUTATIONS = 2025, 2000
_ROUNDING = 1e-12  # of slopes that are equal
LEAST_UNITS = 5  # fewer deviations say too little of a variance
_UNITS = {"scans": ["dataset", "scan"], "datasets": ["dataset"], "seeds": ["seed"]}


def variance(cells: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Compute mean and standard deviations over slices, scans, data sets and seeds: a row a point and metric.

    Args:
        cells: ``cell, state, in_grid, arm, alike, seed, ranks`` and :data:`~pipeline.scaling.points.SERIES_SETTINGS`.
        quality: a row a judged slice: ``model`` (a cell's id), ``dataset, scan, slice`` and the metrics.

    Returns:
        ``network … data, ranks, metric, mean, sd_slices, sd_scans, sd_datasets, sd_seeds, seeds, scans, datasets``.
        ``sd_slices`` is the paper's deviation; ``sd_scans`` and ``sd_datasets`` are of the means of each scan and data
        set over all seeds; ``sd_seeds`` is of the seeds' means. A deviation of one value is empty.
    """
    rows = [row for _, ranks, group in _points(cells, quality) for row in _deviations(ranks, group)]
    spread = ["sd_slices", "sd_scans", "sd_datasets", "sd_seeds", "seeds", "scans", "datasets"]
    return pd.DataFrame(rows, columns=[*SERIES_SETTINGS, "ranks", "metric", "mean", *spread])


def _points(cells: pd.DataFrame, quality: pd.DataFrame) -> Iterator[tuple[object, int, pd.DataFrame]]:
    """Yield a digest of the series, the rank count and the judged slices of each point."""
    judged = finished_in_grid(cells).merge(quality, left_on="cell", right_on="model", suffixes=("", "_judged"))
    for (_, digest, ranks), group in judged.groupby([*COMPARABLE, "ranks"], sort=False):
        yield digest, int(str(ranks)), group


def _deviations(ranks: int, group: pd.DataFrame) -> Iterator[dict[str, object]]:
    settings = {name: group[name].iloc[0] for name in SERIES_SETTINGS}
    for metric in METRICS:
        means = {name: group.groupby(keys)[metric].mean() for name, keys in _UNITS.items()}
        yield {
            **settings, "ranks": ranks, "metric": metric, "mean": group[metric].mean(),
            "sd_slices": group[metric].std(), **{f"sd_{name}": values.std() for name, values in means.items()},
            **{name: len(values) for name, values in means.items()},
        }  # fmt: skip


def falling_variance(cells: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Test whether the variance over scans, data sets or seeds falls with the number of ranks, as the paper says.

    A unit is a scan, a data set or a seed. The statistic is the slope, on log2 of the ranks, of the logarithm of the
    units' mean deviation from their median, as in the test of Brown & Forsythe (1974). The one-sided p-value is the
    share of permutations of the rank counts, within each unit, with a slope as low: values of a unit are alike.

    Returns:
        A row a series, metric and kind of unit: ``network … data, metric, over, units, ranks, slope, p_value, p_holm,
        reason``. ``p_holm`` is corrected after Holm for the number of tests of the series. With too few units,
        ``reason`` stands instead of a p-value.
    """
    series: dict[object, list[tuple[int, pd.DataFrame]]] = {}
    for digest, ranks, group in _points(cells, quality):
        series.setdefault(digest, []).append((ranks, group))
    rows = [row for points in series.values() for row in _series_tests(points)]
    columns = [*SERIES_SETTINGS, "metric", "over", "units", "ranks", "slope", "p_value", "p_holm", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _series_tests(points: Sequence[tuple[int, pd.DataFrame]]) -> list[dict[str, object]]:
    """Test each metric over each kind of unit, and correct the p-values for their number."""
    rows = [_tested(points, metric, over) for metric in METRICS for over in _UNITS]
    corrected = holm(np.array([row.get("p_value", np.nan) for row in rows], np.float64))
    return [{**row, "p_holm": p_value} for row, p_value in zip(rows, corrected, strict=True)]


def _tested(points: Sequence[tuple[int, pd.DataFrame]], metric: str, over: str) -> dict[str, object]:
    means = [group.groupby(_UNITS[over])[metric].mean() for _, group in points]
    common = sorted(set.intersection(*(set(mean.index) for mean in means)))
    values = np.array([mean.loc[common].to_numpy(float) for mean in means])
    ranks, first = np.array([count for count, _ in points]), points[0][1]
    row: dict[str, object] = {**{name: first[name].iloc[0] for name in SERIES_SETTINGS}, "metric": metric, "over": over,
                              "units": len(common), "ranks": " ".join(map(str, ranks))}  # fmt: skip
    if len(ranks) < 2:
        return {**row, "reason": "one rank count"}
    if len(common) < LEAST_UNITS:
        return {**row, "reason": f"{len(common)} of at least {LEAST_UNITS} {over} that are needed"}
    slope, p_value = trend(values, ranks)
    return {**row, "slope": slope, "p_value": p_value, "reason": ""}


def trend(values: Numbers, ranks: Numbers) -> tuple[float, float]:
    """Compute slope and one-sided p-value of a spread that falls with the ranks, of values (rank counts, units).

    Each column is the same unit at all rank counts: a scan, or a seed, which draws the same samples on any.
    """
    deviations, x = np.abs(values - np.median(values, axis=1, keepdims=True)), np.log2(ranks) - np.log2(ranks).mean()
    slope = float(_slope(deviations, x))
    permuted = np.random.default_rng(SEED).permuted(np.tile(deviations, (PERMUTATIONS, 1, 1)), axis=1)
    as_low = np.sum(_slope(permuted, x) <= slope + _ROUNDING)
    return slope, float((1 + as_low) / (1 + PERMUTATIONS))


def _slope(deviations: Numbers, x: Numbers) -> Numbers:
    """Fit a slope over the rank counts to the logarithm of the mean of deviations (..., rank counts, units)."""
    means = np.maximum(deviations.mean(axis=-1), np.finfo(float).tiny)
    slope: Numbers = np.log(means) @ x / (x @ x)
    return slope
