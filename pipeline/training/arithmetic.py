"""The arithmetic of a training, counted on tensors that hold no data."""

from dataclasses import dataclass
from functools import cache

from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.memory_format import lay_out
from pipeline.models.registry import build_network
from pipeline.settings.cells import CellSettings
from pipeline.training.memory import Dataless, TrainingStep, as_a_step
from pipeline.training.schedule import effective_batch, samples_per_epoch


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of one rank: of a batch forward and backward, and of judging one validation sample."""

    batch: int
    judged: int


def count(cell: CellSettings) -> Arithmetic:
    """Those of a cell's convolutions, a multiplication and an addition being two."""
    return _count(as_a_step(cell))


@cache
def _count(cell: CellSettings) -> Arithmetic:
    network = lay_out(build_network(cell), cell.dims)
    with Dataless():
        network.to_empty(device="cpu")
        step = TrainingStep(cell, network, low_precision=False, foreach=False)
        with FlopCounterMode(display=False) as batch:
            step.accumulate(last=True)
        with FlopCounterMode(display=False) as judged:
            step.judge()
    return Arithmetic(int(batch.get_total_flops()), int(judged.get_total_flops()))


def whole(cell: CellSettings, volumes: int) -> float:
    """Operations of a whole training, of all its ranks; ``volumes``: those of the training part."""
    how, one = cell.training, count(cell)
    steps = samples_per_epoch(how, volumes, cell.ranks) // effective_batch(how, cell.ranks) * how.epochs
    validations = how.epochs + 1
    return float(steps * cell.ranks * how.accumulation * one.batch + validations * how.validation_samples * one.judged)
