"""Speed-up, efficiency and what the transfer saved, from the cells of a study."""

import pandas as pd

from pipeline.scaling.estimates import NOTHING, ratio_interval
from pipeline.scaling.implausible import explain_excess
from pipeline.scaling.points import CONDITIONS, SERIES_SETTINGS, finished_in_grid
from pipeline.scaling.series import Point, RankSeries, rank_series

_AGAINST_2D = ["error_2d", "steps_to_2d", "seconds_to_2d"]


def speed_up(cells: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Compute time, speed-up and efficiency at each rank count, against the fewest undisturbed ranks of the series.

    T is the time of a sample, of the whole world, since whole steps may need a few more samples with more ranks. The
    baseline has n0 = ``baseline_ranks`` ranks: speed-up = T(n0) / T(n), so that the baseline's own is 1, and
    efficiency = speed-up * n0 / n, in strong and in weak scaling. ``_low`` and ``_high`` are a 95 % interval over what
    ``interval_over`` says: trainings of several seeds, or epochs of a single one. ``cell`` is the first seed's;
    ``disturbed`` names the row's trainings that other work disturbed; ``impossible`` says of an efficiency above 100 %
    what is likely wrong. ``reason`` says what was left out, of which trainings the load was not measured, or why there
    is no baseline. Arguments as those of :func:`~pipeline.scaling.series.rank_series`.
    """
    rows = [_row(series, point) for series in rank_series(cells, epochs) for point in series.points]
    columns = ["cell", *SERIES_SETTINGS, "ranks", "seeds", "seconds_a_sample", "baseline", "baseline_ranks", "speed_up",
               "speed_up_low", "speed_up_high", "efficiency", "efficiency_low", "efficiency_high", "interval_over",
               "timing", "disturbed", "impossible", "reason"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _row(series: RankSeries, point: Point) -> dict[str, object]:
    row = {"cell": point.cell, **series.settings, "ranks": point.ranks, "seeds": len(point.trainings),
           "seconds_a_sample": point.seconds.mean, "timing": point.timing, "disturbed": point.disturbed,
           "impossible": "", "reason": series.doubts}  # fmt: skip
    if not series.usable:
        return {**row, "interval_over": "", "reason": "no baseline: all of these trainings were disturbed"}
    first = series.usable[0]
    share = first.ranks / point.ranks
    speed = first.seconds.mean / point.seconds.mean
    low, high = NOTHING if point is first else ratio_interval(first.seconds, point.seconds)
    return {
        **row, "baseline": first.cell, "baseline_ranks": first.ranks, "speed_up": speed, "speed_up_low": low,
        "speed_up_high": high, "efficiency": speed * share, "efficiency_low": low * share,
        "efficiency_high": high * share, "interval_over": _interval_over(first, point),
        "impossible": explain_excess(first, point, speed * share, low * share),
    }  # fmt: skip


def _interval_over(first: Point, point: Point) -> str:
    if point is first:
        return ""
    over, against = point.seconds.over, first.seconds.over
    return over if over == against else f"{over}; of the baseline {against}"


def unlike(cells: pd.DataFrame) -> pd.DataFrame:
    """List finished trainings of the same network, slices, sampling, transfer and arm that cannot be compared.

    A row a value of each setting in which they differ, ``what``: ``network, slices, sampling, transfer, arm, what,
    value, cells``.
    """
    shared = ["network", "slices", "sampling", "transfer", "arm"]
    settings = ["epochs", "work", "batch", "accumulation", "rate_rule", *CONDITIONS]
    rows = [
        (*name, setting, value, " ".join(same["cell"]))
        for name, group in finished_in_grid(cells, with_controls=True).groupby(shared, sort=False)
        for setting in settings
        if group[setting].nunique(dropna=False) > 1
        for value, same in group.groupby(setting, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*shared, "what", "value", "cells"])


def steps_to_2d(cells: pd.DataFrame, validations: pd.DataFrame) -> pd.DataFrame:
    """Count the steps after which each finished cell was as good as its 2D counterpart, and those its transfer saved.

    Error is the validation RMSE over that of the low-dose input on the same samples; ``error_2d`` the counterpart's
    last. ``steps_to_2d``: steps before the first validation at or below it, and ``seconds_to_2d`` their training time;
    ``steps_saved``: those of the cell that differs in having no transfer, less these. All are empty where the error
    was not reached. Where the two were validated at other doses or on other voxels, and so their inputs have other
    errors, ``reason`` says so, and all but ``steps_saved`` are empty: that compares 3D networks that were validated
    alike, up to the same level. ``disturbed``: whether other work disturbed the cell, whose seconds then say little.

    Args:
        cells: ``cell, network, counterpart, state, in_grid, arm, slices, ranks, seed, transfer, steps,
            training_seconds, validated_on, alike_but_transfer``; the last is a digest of all other settings,
            ``validated_on`` one of what decides on doses and voxels of the validations.
        validations: ``cell, step, rmse_hu, low_dose_rmse_hu``.
    """
    finished = cells.loc[cells["state"] == "done", "cell"]
    errors = validations[validations["cell"].isin(finished)].sort_values("step")
    errors["error"] = errors["rmse_hu"] / errors["low_dose_rmse_hu"]
    deep = finished_in_grid(cells)
    deep = deep[deep["counterpart"] != ""]
    deep = deep.assign(error_2d=deep["counterpart"].map(errors.groupby("cell")["error"].last()))
    goals = errors["cell"].map(deep.set_index("cell")["error_2d"]).astype(float)  # of no training at all it is text
    reached = errors[errors["error"] <= goals].groupby("cell")["step"].first()
    deep["steps_to_2d"] = deep["cell"].map(reached).astype("Int64")
    deep["seconds_to_2d"] = deep["training_seconds"] / deep["steps"] * deep["steps_to_2d"].astype(float)
    columns = ["cell", "slices", "ranks", "transfer", "counterpart", *_AGAINST_2D, "steps_saved", "disturbed", "reason"]
    return _without_unlike_2d(_with_saved(deep), cells.set_index("cell")["validated_on"])[columns]


def _with_saved(deep: pd.DataFrame) -> pd.DataFrame:
    shared = ["network", "slices", "ranks", "seed", "alike_but_transfer"]
    plain = deep[deep["transfer"] == "none"].rename(columns={"steps_to_2d": "without"})
    pairs = deep.merge(plain[[*shared, "without"]], how="left", on=shared)
    return pairs.assign(steps_saved=(pairs["without"] - pairs["steps_to_2d"]).mask(pairs["transfer"] == "none"))


def _without_unlike_2d(deep: pd.DataFrame, validated_on: "pd.Series[str]") -> pd.DataFrame:
    """Empty what compares a cell with a counterpart that was not validated as it was, and say why."""
    differs = deep["validated_on"] != deep["counterpart"].map(validated_on)
    reasons = differs.map({True: "its counterpart was validated at other doses or on other voxels", False: ""})
    return deep.assign(**deep[_AGAINST_2D].mask(differs), reason=reasons)
