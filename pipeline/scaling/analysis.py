"""Speed-up, efficiency and what the transfer saved, from the cells of a study."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.scaling.bootstrap import Numbers, interval, means
from pipeline.settings.names import DDNET_2D

SEED = 2023
POINT = ["slices", "sampling", "transfer", "epochs", "work"]
WARM, WHOLE = "warm steps", "whole training: too short to leave the start out"


@dataclass(frozen=True)
class Point:
    """Trainings that differ in their seed alone.

    ``seconds``: of a sample, by seed and epoch; ``draws``: means of those drawn again.
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
class Series:
    """Points that differ in their rank count alone, the fewest ranks first; ``what`` they have in common."""

    what: dict[str, object]
    points: list[Point]


def series_of(cells: pd.DataFrame, epochs: pd.DataFrame) -> Iterator[Series]:
    """The finished 3D trainings of a study, in groups that may be compared.

    ``cells`` has ``cell, state, dims, arm, alike, slices, sampling, transfer, epochs, work, ranks, samples,
    training_seconds``; ``epochs`` has ``cell, epoch, seconds_a_sample``. Cells are compared only where ``alike``, a
    digest of all that must not differ but ranks and seed, is the same.
    """
    done = cells[(cells["state"] == "done") & (cells["dims"] == 3) & (cells["arm"] == "full")]
    by_cell = {str(cell): group["seconds_a_sample"].to_numpy(float) for cell, group in epochs.groupby("cell")}
    for _, group in done.groupby(["slices", "alike"], sort=False):
        warm = all(cell in by_cell for cell in group["cell"])
        what = {name: group[name].iloc[0] for name in POINT}
        counts = group.sort_values("ranks", kind="stable").groupby("ranks")
        yield Series(what, [_point(int(str(ranks)), some, by_cell if warm else {}) for ranks, some in counts])


def _point(ranks: int, cells: pd.DataFrame, by_cell: dict[str, Numbers]) -> Point:
    whole = cells["training_seconds"] / cells["samples"]
    seconds = [by_cell[cell] for cell in cells["cell"]] if by_cell else [np.array([value]) for value in whole]
    draws = means(seconds, np.random.default_rng((SEED, ranks)))
    return Point(cells["cell"].iloc[0], ranks, seconds, draws, WARM if by_cell else WHOLE)


def speed_up(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Time, speed-up and efficiency at each rank count, against the fewest ranks that are alike.

    T is the time of a sample, of the whole world, since whole steps may need a few more samples with more ranks. With
    n0 ranks in the baseline: speed-up = n0 * T(n0) / T(n), efficiency = speed-up / n, of strong and of weak scaling
    alike. ``_low`` and ``_high`` are the bootstrap's 95 %, over seeds and epochs; ``cell`` is the first seed's.
    """
    rows = [_row(series, point) for series in series_of(cells, epochs) for point in series.points]
    columns = ["cell", *POINT, "ranks", "seeds", "seconds_a_sample", "baseline", "speed_up", "speed_up_low",
               "speed_up_high", "efficiency", "efficiency_low", "efficiency_high", "timing"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _row(series: Series, point: Point) -> dict[str, object]:
    first = series.points[0]
    gained = first.ranks * first.mean / point.mean
    low, high = (np.nan, np.nan) if point is first else interval(first.ranks * first.draws / point.draws)
    efficiency = {"efficiency": gained / point.ranks, "efficiency_low": low / point.ranks,
                  "efficiency_high": high / point.ranks}  # fmt: skip
    return {"cell": point.cell, **series.what, "ranks": point.ranks, "seeds": len(point.seconds),
            "seconds_a_sample": point.mean, "baseline": first.cell, "speed_up": gained, "speed_up_low": low,
            "speed_up_high": high, **efficiency, "timing": point.timing}  # fmt: skip


def unlike(cells: pd.DataFrame) -> pd.DataFrame:
    """Finished trainings with the same slices, sampling, transfer and arm that are not compared, and what differs.

    A row for each value that parts a group: ``slices, sampling, transfer, what, value, cells``.
    """
    keys = ["slices", "sampling", "transfer", "arm"]
    parting = [
        "epochs",
        "work",
        "batch",
        "accumulation",
        "rate_rule",
        "precision",
        "device",
        "torch",
        "version",
        "data",
    ]
    rows = []
    for name, group in cells[(cells["state"] == "done") & (cells["dims"] == 3)].groupby(keys, sort=False):
        for what in parting:
            if group[what].nunique(dropna=False) > 1:
                rows += [
                    (*name, what, value, " ".join(some["cell"])) for value, some in group.groupby(what, dropna=False)
                ]
    return pd.DataFrame(rows, columns=[*keys, "what", "value", "cells"])


def steps_to_2d(cells: pd.DataFrame, validations: pd.DataFrame) -> pd.DataFrame:
    """After how many steps each finished 3D cell was as good as the 2D-DDnet, and how many its transfer saved.

    Error is the validation RMSE over that of the low-dose input on the same samples; ``error_2d`` the 2D-DDnet's
    last. ``steps_to_2d``: those before the first validation at or below it, and ``seconds_to_2d`` what they took in
    training; ``steps_saved``: those of the cell that is alike but has no transfer, less these. All are empty where it
    was not reached.

    ``cells`` has ``cell, state, dims, arm, slices, ranks, seed, transfer, steps, training_seconds,
    alike_but_transfer``, where the last is a digest of all else that must not differ; ``validations`` has ``cell,
    step, rmse_hu, low_dose_rmse_hu``.
    """
    done = cells[cells["state"] == "done"]
    errors = validations[validations["cell"].isin(done["cell"])].sort_values("step")
    errors["error"] = errors["rmse_hu"] / errors["low_dose_rmse_hu"]
    goal = errors.loc[errors["cell"] == DDNET_2D, "error"].iloc[-1:].max()  # NaN without one
    reached = errors[errors["error"] <= goal].groupby("cell")["step"].first()
    deep = done[(done["dims"] == 3) & (done["arm"] == "full")].assign(error_2d=goal)
    deep["steps_to_2d"] = deep["cell"].map(reached).astype("Int64")
    deep["seconds_to_2d"] = deep["training_seconds"] / deep["steps"] * deep["steps_to_2d"].astype(float)
    columns = ["cell", "slices", "ranks", "transfer", "error_2d", "steps_to_2d", "seconds_to_2d", "steps_saved"]
    return _with_saved(deep)[columns]


def _with_saved(deep: pd.DataFrame) -> pd.DataFrame:
    same = ["slices", "ranks", "seed", "alike_but_transfer"]
    plain = deep[deep["transfer"] == "none"].rename(columns={"steps_to_2d": "without"})
    both = deep.merge(plain[[*same, "without"]], how="left", on=same)
    return both.assign(steps_saved=(both["without"] - both["steps_to_2d"]).mask(both["transfer"] == "none"))
