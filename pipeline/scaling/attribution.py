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

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.scaling.bootstrap import DRAWS, Numbers, interval
from pipeline.scaling.points import CONDITIONS, finished_3d
from pipeline.settings.cells import ARMS, ArmName

_POINT = ["slices", "sampling"]  # with ranks; control arms have neither transfer nor epochs
_SHARED = [*_POINT, "batch", "accumulation", *CONDITIONS]
_TIMES = ("seconds", "own_seconds", "slowest_seconds", "data_seconds")
SEED = 2024

StepTimes = Mapping[str, Numbers]
"""Of each column of a step's times: its mean over the steps, then the means of the bootstrap's draws."""
ArmTimes = Mapping[ArmName, StepTimes]


def _alone(arms: ArmTimes) -> Numbers:
    return arms["alone"]["seconds"] - arms["alone"]["data_seconds"]


def _data(arms: ArmTimes) -> Numbers:
    return arms["full"]["seconds"] - arms["synthetic"]["seconds"]


def _stragglers(arms: ArmTimes) -> Numbers:
    return arms["silent"]["slowest_seconds"] - arms["silent"]["own_seconds"]


def _exchange(arms: ArmTimes) -> Numbers:
    return arms["full"]["seconds"] - arms["silent"]["seconds"] - _stragglers(arms)


def _contention(arms: ArmTimes) -> Numbers:
    return arms["silent"]["seconds"] - _data(arms) - _alone(arms)


CAUSES: dict[str, Callable[[ArmTimes], Numbers]] = {
    "data": _data,
    "exchange": _exchange,
    "stragglers": _stragglers,
    "contention": _contention,
}
"""Seconds of a step that each cause took, from the arms' times; a row of the table and a part of the figure each."""


def attribution(cells: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Attribute the time lost at each point (slices, sampling, ranks) that has control arms: a row a cause.

    Args:
        cells: ``cell, state, dims, arm, slices, sampling, ranks, steps, start_seconds`` and what else arms must share:
            ``batch, accumulation, precision, device, torch, version, data``.
        steps: ``cell, seconds, own_seconds, slowest_seconds, data_seconds, warm``; cold steps are left out.

    Returns:
        ``slices, sampling, ranks, step_seconds, alone_seconds, efficiency, cause, seconds, lost, lost_low, lost_high,
        missing``. ``seconds``: what the cause took of a step. ``lost``: its share of a step and of the start, with the
        bootstrap's 95 % over steps. ``efficiency``: T1 / T. The cause ``start`` is the training's start, divided by
        its steps. A cause is empty where an arm that it needs is among the ``missing``.
    """
    warm = {str(cell): group for cell, group in steps[steps["warm"]].groupby("cell")}
    rows = [row for point, arms, start in _points(cells, warm) for row in _rows(point, arms, start)]
    columns = [*_POINT, "ranks", "step_seconds", "alone_seconds", "efficiency", "cause", "seconds", "lost",
               "lost_low", "lost_high", "missing"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _points(
    cells: pd.DataFrame, warm: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[dict[str, object], dict[ArmName, pd.DataFrame], float]]:
    """Yield each point, the warm steps of its arms, and the seconds of its training's start, a step."""
    for slices, sampling, ranks, comparable in _comparable(cells):
        arms = {arm: _warm_steps(comparable, arm, ranks, warm) for arm in ARMS}
        point = {"slices": slices, "sampling": sampling, "ranks": ranks}
        yield point, {arm: pd.concat(tables) for arm, tables in arms.items() if tables}, _start(comparable, ranks)


def _comparable(cells: pd.DataFrame) -> Iterator[tuple[Any, Any, int, pd.DataFrame]]:
    """Yield slices, sampling and ranks of each point with control arms, once for each group that may be compared."""
    controls = [name for name, arm in ARMS.items() if name != "full" and not arm.single_rank]
    points = set(cells.loc[cells["arm"].isin(controls), [*_POINT, "ranks"]].itertuples(index=False))
    finished = finished_3d(cells, with_controls=True)
    for slices, sampling, ranks in sorted(points):
        trainings = finished[(finished["slices"] == slices) & (finished["sampling"] == sampling)]
        for _, comparable in trainings.groupby(_SHARED, dropna=False):
            if (comparable["ranks"] == ranks).any():
                yield slices, sampling, int(ranks), comparable


def _warm_steps(cells: pd.DataFrame, name: ArmName, ranks: int, warm: Mapping[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """Look up the steps of an arm, or of the arm that is the same on so many ranks; an empty list without any."""
    arm = ARMS[name].on(ranks)
    equal = next(candidate for candidate in ARMS if ARMS[candidate] == arm)
    trainings = cells[(cells["arm"] == equal) & (cells["ranks"] == (1 if arm.single_rank else ranks))]
    return [warm[cell] for cell in trainings["cell"] if cell in warm]


def _start(cells: pd.DataFrame, ranks: int) -> float:
    full = cells[(cells["arm"] == "full") & (cells["ranks"] == ranks)]
    return float((full["start_seconds"] / full["steps"]).mean())


def _rows(point: dict[str, object], steps: Mapping[ArmName, pd.DataFrame], start: float) -> Iterator[dict[str, object]]:
    generator = np.random.default_rng(SEED)
    arms = {arm: _step_times(steps.get(arm), generator) for arm in ARMS}
    full, alone = float(arms["full"]["seconds"][0]), float(_alone(arms)[0])
    common = {**point, "step_seconds": full, "alone_seconds": alone, "efficiency": alone / full}
    missing = " ".join(arm for arm in ARMS if arm not in steps)
    for cause, seconds_of in CAUSES.items():
        seconds, *_ = draws = seconds_of(arms)
        low, high = interval(draws[1:] / (full + start))
        yield {**common, "cause": cause, "seconds": seconds, "lost": seconds / (full + start), "lost_low": low,
               "lost_high": high, "missing": missing if np.isnan(seconds) else ""}  # fmt: skip
    yield {**common, "cause": "start", "seconds": start, "lost": start / (full + start), "missing": ""}


def _step_times(steps: pd.DataFrame | None, generator: np.random.Generator) -> StepTimes:
    """Average each column over the steps and over each draw of them, the same steps for all; NaN without steps."""
    if steps is None:
        return dict.fromkeys(_TIMES, np.full(DRAWS + 1, np.nan))
    drawn = generator.integers(len(steps), size=(DRAWS, len(steps)))
    columns = {name: steps[name].to_numpy(float) for name in _TIMES}
    return {name: np.concatenate([[values.mean()], values[drawn].mean(axis=1)]) for name, values in columns.items()}
