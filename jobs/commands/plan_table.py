"""The table of ``quarterdose plan``: memory and hours of a run's trainings, before they start."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from data_prep.volume import SIDE
from jobs.commands.forecast import Forecast
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.run import RunSettings
from pipeline.training.arithmetic import operations_of
from pipeline.training.gpus import GIB, usable_bytes
from pipeline.training.memory import largest_batch, predict

_SETTINGS = ("cell", "ranks", "slices", "crop", "batch", "precision", "checkpointing")
_SIZES = ("parameters", "GFLOP a step", "optimiser GiB", "saved GiB", "peak GiB")
_FIT = ("fits", "largest batch")
_TIME = ("hours", "GPU-hours")


def plan_table(run: RunSettings, gpu: str | None, forecasts: Sequence[Forecast] | None) -> Table:
    """Make a table with a row per training: its settings, and operations and memory of a rank.

    ``gpu``: adds the batch that fits. ``forecasts``: adds the hours of the trainings that are not done.

    Raises:
        UserError: the GPU is unknown.
    """
    usable = None if gpu is None else usable_bytes(gpu)
    table = Table(box=None, header_style="bold")
    for name in (*_SETTINGS, *_SIZES, *(_FIT if usable else ()), *(_TIME if forecasts is not None else ())):
        table.add_column(name, justify="left" if name in ("cell", "precision", "checkpointing") else "right")
    hours = {training.cell: (f"{training.hours:.2f}", f"{training.gpu_hours:.2f}") for training in forecasts or ()}
    for cell in cells_of(run):
        table.add_row(*_row(cell, usable), *(hours.get(cell.id, ("done", "done")) if forecasts is not None else ()))
    return table


def _row(cell: CellSettings, usable: int | None) -> Iterator[str]:
    training, gpu = cell.training, usable is not None
    yield from (cell.id, str(cell.ranks), str(cell.slices), str(training.crop or SIDE), str(training.batch))
    yield "bfloat16" if training.lowers_precision(gpu=gpu) else "float32"
    yield "yes" if training.activation_checkpointing else "no"
    memory = predict(cell, gpu=gpu)
    yield f"{memory.parameters:,}"
    yield f"{operations_of(cell).batch * training.accumulation / 1e9:,.1f}"
    yield from (f"{size / GIB:.2f}" for size in (memory.optimiser, memory.saved, memory.peak))
    if usable is not None:
        yield "yes" if memory.peak <= usable else "no"
        yield str(largest_batch(cell, usable))


def plan_notes(run: RunSettings, gpu: str | None, forecasts: Sequence[Forecast] | None) -> Iterator[str]:
    """Yield sentences below the table: what its figures hold and leave out, and what to try where no batch fits."""
    if forecasts is not None:
        cap, hours = run.budget.gpu_hours, sum(training.gpu_hours for training in forecasts)
        bill, limit = run.budget.bill(hours), "at most " if any(x.training.patience for x in cells_of(run)) else ""
        yield (
            f"Trainings still to be run: {limit}{hours:.3g} GPU-hours{f', {bill},' if bill else ''} "
            f"from first step to last; budget.gpu_hours: {'no limit' if cap is None else f'{cap:g}'}."
        )
    if gpu is None:
        yield "All tensors of a rank on CPUs; Python, its libraries and the gaps of its heap come on top."
        return
    usable = usable_bytes(gpu)
    yield f"All tensors of a rank, to fit {usable / GIB:.2f} GiB: the rest of {gpu} is for CUDA and workspaces."
    for cell in cells_of(run):
        if not largest_batch(cell, usable):
            saving = "" if cell.training.activation_checkpointing else "activation_checkpointing or "
            yield f"{cell.id} does not fit with any batch: try {saving}a smaller crop."
