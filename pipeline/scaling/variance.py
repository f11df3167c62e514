"""How much quality varies across slices, scans, data sets and seeds, against the number of ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.scaling.analysis import POINT
from pipeline.scaling.bootstrap import Numbers

METRICS = ("mse", "ms_ssim")
SEED, PERMUTATIONS = 2025, 2000
LEAST_UNITS = 5  # of fewer, no deviation says anything of a variance
_UNITS = {"scans": ["dataset", "scan"], "datasets": ["dataset"], "seeds": ["seed"]}


def variance(cells: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """A row a point and metric: its mean, and its standard deviations over slices, scans, data sets and seeds.

    Args:
        cells: ``cell, state, dims, arm, alike, seed, ranks`` and what :data:`~pipeline.scaling.analysis.POINT` names.
        quality: a row a judged slice: ``model`` (a cell's id), ``dataset, scan, slice`` and the metrics.

    Returns:
        ``slices … work, ranks, metric, mean, sd_slices, sd_scans, sd_datasets, sd_seeds, seeds, scans, datasets``. That
        over slices is what the paper gives; those over scans and data sets are of their means, over all seeds; that
        over seeds is of the seeds' means. A deviation of one value is empty.
    """
    rows = [row for _, ranks, group in _points(cells, quality) for row in _deviations(ranks, group)]
    spread = ["sd_slices", "sd_scans", "sd_datasets", "sd_seeds", "seeds", "scans", "datasets"]
    return pd.DataFrame(rows, columns=[*POINT, "ranks", "metric", "mean", *spread])


def _points(cells: pd.DataFrame, quality: pd.DataFrame) -> Iterator[tuple[object, int, pd.DataFrame]]:
    done = cells[(cells["state"] == "done") & (cells["dims"] == 3) & (cells["arm"] == "full")]
    judged = done.merge(quality, left_on="cell", right_on="model", suffixes=("", "_judged"))
    for (_, alike, ranks), group in judged.groupby(["slices", "alike", "ranks"], sort=False):
        yield alike, int(str(ranks)), group


def _deviations(ranks: int, group: pd.DataFrame) -> Iterator[dict[str, object]]:
    what = {name: group[name].iloc[0] for name in POINT}
    for metric in METRICS:
        means = {name: group.groupby(keys)[metric].mean() for name, keys in _UNITS.items()}
        yield {
            **what, "ranks": ranks, "metric": metric, "mean": group[metric].mean(), "sd_slices": group[metric].std(),
            **{f"sd_{name}": values.std() for name, values in means.items()},
            **{name: len(values) for name, values in means.items()},
        }  # fmt: skip


def falling_variance(cells: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Whether the variance over scans, data sets or seeds falls with the number of ranks, as the paper says.

    The statistic is the slope of log |deviation from the median| of the units' means on log2 of the ranks, as in the
    test of Brown & Forsythe (1974); its one-sided p-value is the share of permutations of the rank counts, within
    each unit or, of seeds, among all, with a slope as low. A row a series, metric and unit: ``slices … work,
    metric, over, units, ranks, slope, p_value, reason``; too few units give no p-value but a reason.
    """
    series: dict[object, list[tuple[int, pd.DataFrame]]] = {}
    for alike, ranks, group in _points(cells, quality):
        series.setdefault(alike, []).append((ranks, group))
    rows = [_tested(points, metric, over) for points in series.values() for metric in METRICS for over in _UNITS]
    columns = [*POINT, "metric", "over", "units", "ranks", "slope", "p_value", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _tested(points: Sequence[tuple[int, pd.DataFrame]], metric: str, over: str) -> dict[str, object]:
    means = [group.groupby(_UNITS[over])[metric].mean() for _, group in points]
    common = sorted(set.intersection(*(set(one.index) for one in means)))
    values = np.array([one.loc[common].to_numpy(float) for one in means])
    ranks = np.array([count for count, _ in points])
    row: dict[str, object] = {**{name: points[0][1][name].iloc[0] for name in POINT}, "metric": metric, "over": over,
                              "units": len(common), "ranks": " ".join(map(str, ranks))}  # fmt: skip
    if len(ranks) < 2:
        return {**row, "reason": "one rank count"}
    if len(common) < LEAST_UNITS:
        return {**row, "reason": f"{len(common)} {over}, at least {LEAST_UNITS} are needed"}
    slope, p_value = trend(values, ranks, paired=over != "seeds")
    return {**row, "slope": slope, "p_value": p_value, "reason": ""}


def trend(values: Numbers, ranks: Numbers, *, paired: bool) -> tuple[float, float]:
    """Slope and one-sided p-value for a variance that falls with the ranks; ``values``: (rank counts, units)."""
    away = np.log(np.abs(values - np.median(values, axis=1, keepdims=True)) + np.finfo(float).tiny)
    away = np.maximum(away, np.median(away) - 5)  # a unit that is the median itself must not weigh without end
    generator, x = np.random.default_rng(SEED), np.log2(ranks) - np.log2(ranks).mean()
    slope = _slope(away, x)
    if paired:
        drawn = [_slope(generator.permuted(away, axis=0), x) for _ in range(PERMUTATIONS)]
    else:
        drawn = [_slope(generator.permutation(away.ravel()).reshape(away.shape), x) for _ in range(PERMUTATIONS)]
    return slope, float((1 + np.sum(np.array(drawn) <= slope)) / (1 + PERMUTATIONS))


def _slope(away: Numbers, x: Numbers) -> float:
    return float((away.mean(axis=1) * x).sum() / (x**2).sum())
