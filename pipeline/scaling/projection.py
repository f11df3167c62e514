"""Table of how far a study's trainings would scale, by a model of a step that is fitted to their measured steps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.scaling.bootstrap import Numbers, interval
from pipeline.scaling.points import COMPARABLE, GRID_SETTINGS, finished_3d
from pipeline.scaling.step_model import MeasuredStep, StepModel, fit

RANKS = tuple(2**power for power in range(3, 13))
"""8 to 4,096."""
GRADIENT_BYTES = 4
END = 0.5
_SETTINGS = [name for name in GRID_SETTINGS if name != "work"]  # a step is the same in strong and in weak scaling
_DRAWS, _SEED = 100, 2026
Nodes = tuple[int, int]
"""Ranks, and the nodes that they are on."""


def projection(cells: pd.DataFrame, steps: pd.DataFrame, data_rate: float = np.inf) -> pd.DataFrame:
    """Forecast the efficiency of each series from 8 to 4,096 ranks by its fitted model: a row a rank count.

    Args:
        cells: ``cell, state, dims, arm, alike, slices, sampling, transfer, epochs, ranks, nodes, parameters, batch,
            accumulation``.
        steps: ``cell, seconds, own_seconds, slowest_seconds, warm``.
        data_rate: samples a second that the file system gives all ranks together.

    Returns:
        ``law, slices, sampling, transfer, epochs, ranks, step_seconds, speed_up, efficiency`` with ``_low`` and
        ``_high`` of both, the bootstrap's 95 % over steps, and ``limit, ends, fitted, assumed``. ``limit``: the part
        that costs most; ``ends``: whether efficiency is below a half; ``fitted``: the measured rank counts;
        ``assumed``: what was not measured. A series of one rank count has no row.
    """
    warm = {str(cell): group for cell, group in steps[steps["warm"]].groupby("cell")}
    groups = finished_3d(cells).groupby(COMPARABLE, sort=False)
    rows = [row for _, group in groups for row in _rows(group, warm, data_rate)]
    columns = ["law", *_SETTINGS, "ranks", "step_seconds", "speed_up", "speed_up_low", "speed_up_high", "efficiency",
               "efficiency_low", "efficiency_high", "limit", "ends", "fitted", "assumed"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _rows(group: pd.DataFrame, warm: Mapping[str, pd.DataFrame], data_rate: float) -> Iterator[dict[str, object]]:
    measured = _measured(group, warm)
    if len(measured) < 2:
        return
    first, generator = group.iloc[0], np.random.default_rng(_SEED)
    size, samples = float(first["parameters"]) * GRADIENT_BYTES, float(first["batch"] * first["accumulation"])
    model, *drawn = (
        replace(_fit(measured, size, generator if number else None), data_rate=data_rate)
        for number in range(_DRAWS + 1)
    )
    common = {"law": "step model", **{name: first[name] for name in _SETTINGS}}
    sources = {"fitted": " ".join(str(ranks) for ranks, _ in measured), "assumed": "; ".join(model.assumed)}
    for ranks in RANKS:
        bounds = interval(np.array([draw.efficiency(ranks, samples) for draw in drawn]))
        yield {**common, "ranks": ranks, **_forecast(model, ranks, samples, bounds), **sources}


def _measured(group: pd.DataFrame, warm: Mapping[str, pd.DataFrame]) -> dict[Nodes, pd.DataFrame]:
    """Collect the warm steps of each rank count that has any."""
    return {
        (int(str(ranks)), int(same["nodes"].max())): pd.concat([warm[cell] for cell in same["cell"] if cell in warm])
        for ranks, same in group.groupby("ranks")
        if any(cell in warm for cell in same["cell"])
    }


def _forecast(model: StepModel, ranks: int, samples: float, bounds: tuple[float, float]) -> dict[str, object]:
    low, high = bounds
    parts, efficiency = model.parts(ranks, samples), model.efficiency(ranks, samples)
    limit = max((name for name in parts if name != "compute"), key=lambda name: parts[name])
    return {
        "step_seconds": sum(parts.values()), "speed_up": ranks * efficiency, "speed_up_low": ranks * low,
        "speed_up_high": ranks * high, "efficiency": efficiency, "efficiency_low": low, "efficiency_high": high,
        "limit": limit, "ends": efficiency < END,
    }  # fmt: skip


def _fit(measured: Mapping[Nodes, pd.DataFrame], size: float, generator: np.random.Generator | None) -> StepModel:
    """Fit the model to all steps, or to as many that the generator draws."""
    points = []
    for (ranks, nodes), steps in measured.items():
        times = steps[["seconds", "own_seconds", "slowest_seconds"]].to_numpy(float).T
        if generator:
            times = times[:, generator.integers(len(steps), size=len(steps))]
        points.append(_step(ranks, nodes, *times))
    return fit(points, size)


def _step(ranks: int, nodes: int, seconds: Numbers, busy: Numbers, slowest: Numbers) -> MeasuredStep:
    """Average the steps of one rank count; a rank that waits in the exchange waits first for the slowest rank."""
    late = float((slowest - busy).mean())
    return MeasuredStep(ranks, nodes, float(busy.mean()), max(0.0, float((seconds - busy).mean()) - late), late)
