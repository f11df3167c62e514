"""The times of a study's steps and epochs, as its trainings wrote them down."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from pipeline.settings.cells import CellSettings
from pipeline.training.clock import PARTS
from pipeline.training.metrics_file import Lines
from pipeline.training.schedule import effective_batch

_PARTS = [f"{part}_seconds" for part in PARTS]
STEP_COLUMNS = ["cell", "epoch", "step", "samples", "seconds", "own_seconds", "slowest_seconds", *_PARTS, "warm"]


def steps_table(cells: Sequence[CellSettings], lines: Lines) -> pd.DataFrame:
    """A row a step of each training, in seconds, from the lines of its ``metrics.jsonl``.

    ``seconds`` and ``own_seconds``, those outside of the exchange, are means of the ranks; ``slowest_seconds`` are the
    latter of the slowest rank; ``data_seconds`` … ``optimiser_seconds`` are means of the steps that one line of
    metrics.jsonl covers; ``samples`` are those that the step took; ``warm`` is false for the first ten steps of a
    process.
    """
    rows = [row for cell in cells for line in lines[cell.id] for row in _steps(cell, line)]
    found = pd.DataFrame(rows, columns=STEP_COLUMNS)
    numbers = [column for column in STEP_COLUMNS if column.endswith("seconds")]
    return found.astype({**dict.fromkeys(numbers, float), "warm": bool})  # without any row too


def _steps(cell: CellSettings, line: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    if line["kind"] != "train" or "step_seconds" not in line:
        return
    samples, parts = effective_batch(cell.training, cell.ranks), [line[part] for part in _PARTS]
    first = line["step"] - len(line["warm"]) + 1
    columns = (line["step_seconds"], line["own_seconds"], line["slowest_seconds"], line["warm"])
    for step, (whole, own, slowest, warm) in enumerate(zip(*columns, strict=True), start=first):
        yield (cell.id, line["epoch"], step, samples, whole, own, slowest, *parts, warm)


def epochs_table(steps: pd.DataFrame) -> pd.DataFrame:
    """A row an epoch of each training: ``cell, epoch, steps, seconds_a_sample``, of warm steps alone.

    The seconds are those of the whole world, so that n ranks of full efficiency take a n-th of one's.
    """
    warm = steps[steps["warm"]]
    grouped = warm.groupby(["cell", "epoch"], sort=False)
    found = grouped.agg(steps=("step", "size"), seconds=("seconds", "sum"), samples=("samples", "sum")).reset_index()
    return found.assign(seconds_a_sample=found["seconds"] / found["samples"])[
        ["cell", "epoch", "steps", "seconds_a_sample"]
    ]


def step_quantiles(steps: pd.DataFrame) -> pd.DataFrame:
    """Of each training's warm steps: ``timed_steps``, ``step_p50_seconds`` and ``step_p95_seconds``; index ``cell``."""
    seconds = steps[steps["warm"]].groupby("cell", sort=False)["seconds"]
    quantiles = {f"step_p{round(100 * q)}_seconds": seconds.quantile(q) for q in (0.5, 0.95)}
    return pd.DataFrame({"timed_steps": seconds.size(), **quantiles})
