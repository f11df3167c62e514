"""The times of a study's steps and epochs, as its trainings wrote them down."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from pipeline.settings.cells import CellSettings
from pipeline.training.metrics_file import PARTS, Lines
from pipeline.training.schedule import effective_batch

_PARTS = [f"{part}_seconds" for part in PARTS]
_TIMES = ["seconds", "own_seconds", "slowest_seconds"]
STEP_COLUMNS = ["cell", "epoch", "step", "samples", *_TIMES, *_PARTS, "warm"]


def steps_table(cells: Sequence[CellSettings], lines: Lines) -> pd.DataFrame:
    """List the steps of each training, a row each, from the lines of its ``metrics.jsonl``.

    ``seconds`` of a step and ``own_seconds`` (without the exchange) are means over the ranks; ``slowest_seconds`` is
    ``own_seconds`` of the slowest rank. ``data_seconds`` … ``optimiser_seconds`` are means over the steps of one line.
    ``samples``: how many the step trained on, all ranks together. ``warm`` is false for a process's first ten steps.
    """
    rows = [row for cell in cells for line in lines[cell.id] for row in _steps(cell, line)]
    steps = pd.DataFrame(rows, columns=STEP_COLUMNS)
    return steps.astype({**dict.fromkeys([*_TIMES, *_PARTS], float), "warm": bool})  # an empty table has no types


def _steps(cell: CellSettings, line: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    if line["kind"] != "train" or "step_seconds" not in line:
        return
    samples, parts = effective_batch(cell.training, cell.ranks), [line[part] for part in _PARTS]
    first = line["step"] - len(line["warm"]) + 1
    columns = (line["step_seconds"], line["own_seconds"], line["slowest_seconds"], line["warm"])
    for step, (*times, warm) in enumerate(zip(*columns, strict=True), start=first):
        yield (cell.id, line["epoch"], step, samples, *times, *parts, warm)


def epochs_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Sum the warm steps of each training by epoch: ``cell, epoch, steps, samples, seconds, seconds_a_sample``.

    Seconds are those of all ranks together: n ranks at full efficiency take an n-th of a single rank's.
    """
    warm = steps[steps["warm"]]
    grouped = warm.groupby(["cell", "epoch"], sort=False)
    sums = grouped.agg(steps=("step", "size"), seconds=("seconds", "sum"), samples=("samples", "sum")).reset_index()
    epochs = sums.assign(seconds_a_sample=sums["seconds"] / sums["samples"])
    return epochs[["cell", "epoch", "steps", "samples", "seconds", "seconds_a_sample"]]


def step_quantiles(steps: pd.DataFrame) -> pd.DataFrame:
    """Summarise each training's warm steps: ``timed_steps, step_p50_seconds, step_p95_seconds``; index ``cell``."""
    seconds = steps[steps["warm"]].groupby("cell", sort=False)["seconds"]
    quantiles = {f"step_p{round(100 * q)}_seconds": seconds.quantile(q) for q in (0.5, 0.95)}
    return pd.DataFrame({"timed_steps": seconds.size(), **quantiles})
