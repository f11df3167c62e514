"""Where the efficiency of each point went: to data, to the exchange, to stragglers, to ranks that share a machine.

A control arm takes one thing away: ``synthetic`` the reading of data, ``silent`` the exchange of gradients, ``alone``
all other ranks. With the seconds of a step T of the training, and T1 of a rank alone without its wait for data:

    T - T1 = data + exchange + stragglers + contention
    data       = T - T(synthetic)
    stragglers = mean over the steps of (slowest rank - mean of the ranks), without exchange
    exchange   = T - T(silent) - stragglers
    contention = T(silent) - data - T1

so that the parts add up to T - T1 by construction. Each may be negative by noise, and is shown so.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.scaling.disturbance import YES
from pipeline.scaling.estimates import Numbers, Spread, block_count, blocks, pooled, spread_of, t_interval
from pipeline.scaling.points import CONDITIONS, finished_in_grid
from pipeline.settings.cells import ARMS, ArmName

_POINT = ["network", "slices", "sampling"]  # with ranks; control arms have neither transfer nor epochs
_SHARED = [*_POINT, "batch", "accumulation", *CONDITIONS]
_TIMES = ["seconds", "own_seconds", "slowest_seconds", "data_seconds"]
Weights = Mapping[ArmName, Sequence[float]]
"""Factors of each of a step's times, in the order of ``_TIMES``, for each arm."""

CAUSES: dict[str, Weights] = {
    "data": {"full": (1, 0, 0, 0), "synthetic": (-1, 0, 0, 0)},
    "exchange": {"full": (1, 0, 0, 0), "silent": (-1, 1, -1, 0)},
    "stragglers": {"silent": (0, -1, 1, 0)},
    "contention": {"silent": (1, 0, 0, 0), "full": (-1, 0, 0, 0), "synthetic": (1, 0, 0, 0), "alone": (-1, 0, 0, 1)},
}
"""Seconds of a step that each cause took, as a weighted sum of the arms' times; a row of the table and a part of the
figure each."""

_ALONE = np.array(CAUSES["contention"]["alone"], float) * -1
_FULL = np.array([1.0, 0, 0, 0])
Arms = Mapping[ArmName, list[Numbers]]
"""Times of the warm steps of each training of each arm, (steps, times)."""


def attribution(cells: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Attribute the time lost at each point (network, slices, sampling, ranks) that has control arms: a row a cause.

    Args:
        cells: ``cell, network, state, in_grid, arm, slices, sampling, ranks, steps, start_seconds, disturbed,
            left_out`` and what else arms must share: ``batch, accumulation, precision, device, torch, version, data``.
        steps: ``cell, seconds, own_seconds, slowest_seconds, data_seconds, warm``; cold steps are left out.

    Returns:
        ``network, slices, sampling, precision … data, ranks, step_seconds, alone_seconds, efficiency, cause, seconds,
        lost, lost_low, lost_high, interval_over, disturbed, impossible, missing``. ``seconds``: what the cause took of
        a step.
        ``lost``: its share of a step and of the start, with a 95 % interval over what ``interval_over`` says.
        ``efficiency``: T1 / T. The cause ``start`` is the training's start, divided by its steps. ``disturbed``: the
        point's trainings that other work disturbed; they are left out unless they are to be included. A cause is
        empty where an arm that it needs is among the ``missing``.
    """
    warm = {str(cell): group[_TIMES].to_numpy(float) for cell, group in steps[steps["warm"]].groupby("cell")}
    rows = [row for point, comparable in _comparable(cells) for row in _rows(point, comparable, warm)]
    columns = [*_POINT, *CONDITIONS, "ranks", "step_seconds", "alone_seconds", "efficiency", "cause", "seconds", "lost",
               "lost_low", "lost_high", "interval_over", "disturbed", "impossible", "missing"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _comparable(cells: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield settings and conditions of each point with control arms, once a group of trainings that may be compared."""
    controls = [name for name, arm in ARMS.items() if name != "full" and not arm.single_rank]
    points = (
        cells.loc[cells["arm"].isin(controls), [*_POINT, "ranks"]].drop_duplicates().sort_values([*_POINT, "ranks"])
    )
    finished = finished_in_grid(cells, with_controls=True)
    for point in points.to_dict("records"):
        trainings = finished[(finished[_POINT] == [point[name] for name in _POINT]).all(axis=1)]
        for _, comparable in trainings.groupby(_SHARED, dropna=False):
            if (comparable["ranks"] == point["ranks"]).any():
                conditions = {name: comparable[name].iloc[0] for name in CONDITIONS}
                yield {**{str(name): setting for name, setting in point.items()}, **conditions}, comparable


def _rows(point: dict[str, Any], comparable: pd.DataFrame, warm: Mapping[str, Numbers]) -> Iterator[dict[str, object]]:
    of_arms = {arm: _of_arm(comparable, arm, point["ranks"]) for arm in ARMS}
    disturbed = [cell for cells in of_arms.values() for cell in cells.loc[cells["disturbed"] == YES, "cell"]]
    usable = {arm: cells[~cells["left_out"]] for arm, cells in of_arms.items()}
    arms: Arms = {arm: [warm[cell] for cell in cells["cell"] if cell in warm] for arm, cells in usable.items()}
    start = float((usable["full"]["start_seconds"] / usable["full"]["steps"]).mean())
    full, alone = _mean(arms["full"], _FULL), _mean(arms["alone"], _ALONE)
    common = {**point, "step_seconds": full, "alone_seconds": alone, "efficiency": alone / full,
              "disturbed": " ".join(dict.fromkeys(disturbed)), "impossible": "", "missing": ""}  # fmt: skip
    spread, missing = _spread(comparable, warm), " ".join(arm for arm, trainings in arms.items() if not trainings)
    for cause, weights in CAUSES.items():
        seconds = sum(_mean(arms[arm], np.array(factors)) for arm, factors in weights.items())
        if np.isnan(seconds):
            yield {**common, "cause": cause, "seconds": seconds, "interval_over": "", "missing": missing}
        else:
            slopes = _slopes(weights, seconds / (full + start), point["ranks"])
            yield {**common, "cause": cause, "seconds": seconds, **_lost(arms, seconds, slopes, full + start, spread)}
    yield {**common, "cause": "start", "seconds": start, "lost": start / (full + start), "interval_over": ""}


def _of_arm(cells: pd.DataFrame, name: ArmName, ranks: int) -> pd.DataFrame:
    """Select the trainings of an arm, or of the arm that is the same on so many ranks."""
    single_rank = ARMS[name].single_rank
    return cells[(cells["arm"] == _equal_arm(name, ranks)) & (cells["ranks"] == (1 if single_rank else ranks))]


def _equal_arm(name: ArmName, ranks: int) -> ArmName:
    return next(candidate for candidate in ARMS if ARMS[candidate] == ARMS[name].on(ranks))


def _slopes(weights: Weights, lost: float, ranks: int) -> Mapping[ArmName, Numbers]:
    """Return how each training's times enter a cause's share, times the whole (delta method).

    The whole varies with the training's own seconds, so that these also count with the share itself. Arms that are the
    same training on so many ranks count once.
    """
    slopes: dict[ArmName, Numbers] = {"full": -lost * _FULL}
    for arm, factors in weights.items():
        equal = _equal_arm(arm, ranks)
        slopes[equal] = slopes.get(equal, 0 * _FULL) + np.array(factors)
    return slopes


def _mean(trainings: Sequence[Numbers], weights: Numbers) -> float:
    return float((np.concatenate(trainings) @ weights).mean()) if trainings else np.nan


def _lost(
    arms: Arms, seconds: float, slopes: Mapping[ArmName, Numbers], total: float, spread: Spread
) -> dict[str, object]:
    """Compute a cause's share of the whole, with its interval."""
    terms = list(_variances(arms, {arm: slope / total for arm, slope in slopes.items()}, spread))
    low, high = t_interval(seconds / total, *zip(*terms, strict=True))
    steps = ", ".join(f"{arm} {sum(map(len, arms[arm]))}" for arm in slopes)
    units = "seeds, blocks of steps of arms with one seed" if spread.freedom else "blocks of steps of one seed an arm"
    over = f"{units}; {steps} steps"
    if np.isnan(low):  # as one rank exchanges nothing, and waits for none
        over = f"nothing: {'too few steps' if np.isnan(sum(x for x, _ in terms)) else 'the same in all steps'}"
    return {"lost": seconds / total, "lost_low": low, "lost_high": high, "impossible": _impossible(high),
            "interval_over": over}  # fmt: skip


def _variances(arms: Arms, slopes: Mapping[ArmName, Numbers], spread: Spread) -> Iterator[tuple[float, int]]:
    """Yield the variances of a sum of the arms' means with their freedoms: between trainings, and within single ones.

    Several trainings differ by both; they stand in for how others, of which there is a single one, would differ. The
    variance between trainings is the same estimate in all arms, and so one term.
    """
    if spread.freedom:
        squares = sum(_mean(arms[arm], slope) ** 2 / len(arms[arm]) for arm, slope in slopes.items())
        yield spread.variance * squares, spread.freedom
    for arm, slope in slopes.items():
        if len(arms[arm]) == 1:
            yield _within(arms[arm][0], slope)


def _within(steps: Numbers, slope: Numbers) -> tuple[float, int]:
    count = block_count(len(steps))
    if count < 2:
        return np.nan, 0
    estimate = pooled(blocks(steps @ slope, count), blocks(np.ones(len(steps)), count), "")
    return estimate.variance, estimate.freedom


def _spread(comparable: pd.DataFrame, warm: Mapping[str, Numbers]) -> Spread:
    """Pool the spread of the seeds of each rank count."""
    full = comparable[(comparable["arm"] == "full") & ~comparable["left_out"]]
    return spread_of([warm[cell][:, 0].mean() for cell in seeds["cell"] if cell in warm]
                     for _, seeds in full.groupby("ranks"))  # fmt: skip


def _impossible(high: float) -> str:
    """Say what is likely wrong where a cause gained time beyond its interval."""
    if not high < 0:
        return ""
    return "below 0 beyond its interval: a control arm was slower than the training, as on a disturbed or slower node"
