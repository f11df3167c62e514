"""Operations of a training, counted on tensors that hold no data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from torch.utils.flop_counter import FlopCounterMode

from pipeline.convolutions.described import as_described
from pipeline.inference.windows import plan_windows
from pipeline.settings.cells import CellSettings
from pipeline.training.memory import blank_batches, blank_sample, blank_step, normalise
from pipeline.training.schedule import length_of


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one rank: ``batch``: forward and backward; ``sample``: one validated."""

    batch: int
    sample: int


def count_operations(cell: CellSettings, volumes: int, validated: Sequence[int]) -> float:
    """Count the floating-point operations of a whole training, of all its ranks.

    ``volumes``: number of training volumes. ``validated``: slices of each scan, or slab, of the validation part.
    """
    training, operations = cell.training, operations_of(cell)
    batches = length_of(training, volumes, cell.ranks).steps * cell.ranks * training.accumulation
    validations = 1 + math.ceil(training.epochs / training.validation_epochs)
    samples = training.validation_samples
    if training.validation == "scans":
        samples = sum(len(plan_windows(cell, slices)) for slices in validated)
    return float(batches * operations.batch + validations * samples * operations.sample)


def operations_of(cell: CellSettings) -> Operations:
    """Count the operations of the cell's convolutions; a multiplication and an addition are two."""
    return _count(normalise(cell))


@cache
def _count(cell: CellSettings) -> Operations:
    with blank_step(cell) as step, as_described():
        with FlopCounterMode(display=False) as batch:
            step.accumulate(next(blank_batches(cell)), last=True)
        step.judged.eval()
        with FlopCounterMode(display=False) as sample:
            step.judge(*blank_sample(cell))
    return Operations(int(batch.get_total_flops()), int(sample.get_total_flops()))
