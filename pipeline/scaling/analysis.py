"""Speed-up, efficiency and what the transfer saved, from the cells of a study."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.scaling.bootstrap import Numbers, interval, means
from pipeline.scaling.points import COMPARABLE, CONDITIONS, GRID_SETTINGS, finished_3d
from pipeline.settings.names import DDNET_2D

SEED = 2023
WARM, WHOLE = "warm steps", "whole training: too short to leave the start out"


@dataclass(frozen=True)
class Point:
    """Trainings that differ in their seed alone.

    ``cell``: id of the first; ``seconds``: of a sample, an array a seed with an item an epoch; ``draws``: bootstrap
    means of ``seconds``; ``timing``: what was timed.
    """

    cell: str
    ranks: int
    seconds: list[Numbers]
    draws: Numbers
    timing: str

    @property
    def mean(self) -> float:
        """Seconds a sample, the mean of the seeds' means."""
        return float(np.mean([seed.mean() for seed in self.seconds]))


@dataclass(frozen=True)
class RankSeries:
    """Points that differ in their rank count alone, the fewest ranks first, and the ``settings`` that they share."""

    settings: dict[str, object]
    points: list[Point]


def rank_series(cells: pd.DataFrame, epochs: pd.DataFrame) -> Iterator[RankSeries]:
    """Yield the finished 3D trainings of a study in groups that may be compared.

    Args:
        cells: ``cell, state, dims, arm, alike, slices, sampling, transfer, epochs, work, ranks, samples,
            training_seconds``. Cells are compared only where ``alike``, a digest of all settings but ranks and seed,
            is the same.
        epochs: ``cell, epoch, seconds_a_sample``, of warm steps.
    """
    by_cell = {str(cell): group["seconds_a_sample"].to_numpy(float) for cell, group in epochs.groupby("cell")}
    for _, group in finished_3d(cells).groupby(COMPARABLE, sort=False):
        is_warm = all(cell in by_cell for cell in group["cell"])
        settings = {name: group[name].iloc[0] for name in GRID_SETTINGS}
        counts = group.sort_values("ranks", kind="stable").groupby("ranks")
        points = [_point(int(str(ranks)), seeds, by_cell if is_warm else {}) for ranks, seeds in counts]
        yield RankSeries(settings, points)


def _point(ranks: int, cells: pd.DataFrame, by_cell: dict[str, Numbers]) -> Point:
    of_training = cells["training_seconds"] / cells["samples"]
    seconds = [by_cell[cell] for cell in cells["cell"]] if by_cell else [np.array([mean]) for mean in of_training]
    draws = means(seconds, np.random.default_rng((SEED, ranks)))
    return Point(cells["cell"].iloc[0], ranks, seconds, draws, WARM if by_cell else WHOLE)


def speed_up(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Compute time, speed-up and efficiency at each rank count, against the fewest ranks of the same series.

    T is the time of a sample, of the whole world, since whole steps may need a few more samples with more ranks. With
    n0 ranks in the baseline: speed-up = n0 * T(n0) / T(n), efficiency = speed-up / n, in strong and in weak scaling.
    ``_low`` and ``_high`` are the bootstrap's 95 %, over seeds and epochs; ``cell`` is the first seed's. Arguments as
    those of :func:`rank_series`.
    """
    rows = [_row(series, point) for series in rank_series(cells, epochs) for point in series.points]
    columns = ["cell", *GRID_SETTINGS, "ranks", "seeds", "seconds_a_sample", "baseline", "speed_up", "speed_up_low",
               "speed_up_high", "efficiency", "efficiency_low", "efficiency_high", "timing"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _row(series: RankSeries, point: Point) -> dict[str, object]:
    first = series.points[0]
    speed = first.ranks * first.mean / point.mean
    low, high = (np.nan, np.nan) if point is first else interval(first.ranks * first.draws / point.draws)
    efficiency = {"efficiency": speed / point.ranks, "efficiency_low": low / point.ranks,
                  "efficiency_high": high / point.ranks}  # fmt: skip
    return {"cell": point.cell, **series.settings, "ranks": point.ranks, "seeds": len(point.seconds),
            "seconds_a_sample": point.mean, "baseline": first.cell, "speed_up": speed, "speed_up_low": low,
            "speed_up_high": high, **efficiency, "timing": point.timing}  # fmt: skip


def unlike(cells: pd.DataFrame) -> pd.DataFrame:
    """List finished trainings of the same slices, sampling, transfer and arm that differ too much to be compared.

    A row a value of each setting in which they differ, ``what``: ``slices, sampling, transfer, arm, what, value,
    cells``.
    """
    shared = ["slices", "sampling", "transfer", "arm"]
    settings = ["epochs", "work", "batch", "accumulation", "rate_rule", *CONDITIONS]
    rows = [
        (*name, setting, value, " ".join(same["cell"]))
        for name, group in finished_3d(cells, with_controls=True).groupby(shared, sort=False)
        for setting in settings
        if group[setting].nunique(dropna=False) > 1
        for value, same in group.groupby(setting, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*shared, "what", "value", "cells"])


def steps_to_2d(cells: pd.DataFrame, validations: pd.DataFrame) -> pd.DataFrame:
    """Count the steps after which each finished 3D cell was as good as the 2D-DDnet, and those its transfer saved.

    Error is the validation RMSE over that of the low-dose input on the same samples; ``error_2d`` the 2D-DDnet's
    last. ``steps_to_2d``: steps before the first validation at or below it, and ``seconds_to_2d`` their training time;
    ``steps_saved``: those of the cell that differs in having no transfer, less these. All are empty where the error
    was not reached.

    Args:
        cells: ``cell, state, dims, arm, slices, ranks, seed, transfer, steps, training_seconds, alike_but_transfer``;
            the last is a digest of all other settings.
        validations: ``cell, step, rmse_hu, low_dose_rmse_hu``.
    """
    finished = cells.loc[cells["state"] == "done", "cell"]
    errors = validations[validations["cell"].isin(finished)].sort_values("step")
    errors["error"] = errors["rmse_hu"] / errors["low_dose_rmse_hu"]
    goal = errors.loc[errors["cell"] == DDNET_2D, "error"].iloc[-1:].max()  # NaN without one
    reached = errors[errors["error"] <= goal].groupby("cell")["step"].first()
    deep = finished_3d(cells).assign(error_2d=goal)
    deep["steps_to_2d"] = deep["cell"].map(reached).astype("Int64")
    deep["seconds_to_2d"] = deep["training_seconds"] / deep["steps"] * deep["steps_to_2d"].astype(float)
    columns = ["cell", "slices", "ranks", "transfer", "error_2d", "steps_to_2d", "seconds_to_2d", "steps_saved"]
    return _with_saved(deep)[columns]


def _with_saved(deep: pd.DataFrame) -> pd.DataFrame:
    shared = ["slices", "ranks", "seed", "alike_but_transfer"]
    plain = deep[deep["transfer"] == "none"].rename(columns={"steps_to_2d": "without"})
    pairs = deep.merge(plain[[*shared, "without"]], how="left", on=shared)
    return pairs.assign(steps_saved=(pairs["without"] - pairs["steps_to_2d"]).mask(pairs["transfer"] == "none"))
