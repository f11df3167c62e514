"""Batches of samples, read before a training needs them."""

import os
import signal
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from multiprocessing.queues import Queue
from typing import Never

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from data_prep.errors import MachineError, UserError
from data_prep.processes import end_with_parent
from pipeline.dataset import PairSamples, RankBatches
from pipeline.prefetch import prefetch
from pipeline.settings.cells import ARMS, CellSettings
from pipeline.settings.training import TrainingSettings
from pipeline.training.world import World

MOST_WORKERS = 4
Batch = tuple[Tensor, Tensor, Tensor]
Fault = UserError | MachineError | OSError
_FAULTS = (UserError, MachineError, OSError)


class _Batches(Dataset[Batch | Fault]):
    """Batches by the indices of their samples, or what kept one from being read.

    Raised in a reading process, it would come as torch's text, trace and all.
    """

    def __init__(self, samples: PairSamples) -> None:
        self._samples = samples

    def __getitem__(self, indices: list[int]) -> Batch | Fault:
        try:
            batch: Batch = default_collate([self._samples[index] for index in indices])
        except _FAULTS as fault:
            return fault
        return batch


def batches_of(cell: CellSettings, steps: range, rank: int, size: int) -> RankBatches:
    """Return a rank's batches of these steps; in an arm that reads no data the training's first one alone."""
    accumulation = cell.training.accumulation
    numbers = (steps.start * accumulation, steps.stop * accumulation) if ARMS[cell.arm].reads_data else (0, 1)
    return RankBatches(*numbers, cell.training.batch, rank, size)


def read_ahead(
    samples: PairSamples, batches: RankBatches, settings: TrainingSettings, world: World, device: torch.device
) -> Generator[Batch]:
    """Return batches in order, decoded before they are needed, in pinned memory for GPUs.

    Worker processes read them, or a thread where the settings or the cores allow no workers. Workers are forked from
    this process: children of a fork server would not see it die. Closing the generator ends them.
    """
    workers = settings.loader_workers
    if workers is None:
        workers = workers_for(len(os.sched_getaffinity(0)), world, settings.threads)
    loader: DataLoader[Batch | Fault] = DataLoader(
        _Batches(samples), batch_size=None, sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None, worker_init_fn=bind_to_rank,
        generator=torch.Generator(),  # torch's own is that of dropout, whose numbers would shift
    )  # fmt: skip
    return _yield_from(iter(loader) if workers else prefetch(_read_on_one_core(loader)))


def repeat_first(batches: Generator[Batch]) -> Generator[Batch]:
    """Yield the first batch for ever, and end the reading of the others."""
    with closing(batches):
        first = next(batches)
    yield from repeat(first)


def _yield_from(batches: Iterable[Batch | Fault]) -> Generator[Batch]:
    try:
        for batch in batches:
            if isinstance(batch, _FAULTS):
                raise batch
            yield batch
            del batch  # freed while the reading thread waits, which else takes Python's lock that freeing lets go of
    finally:
        del batches  # which ends the readers; the fault that is raised, in a cycle with its trace, would keep it


def bind_to_rank(_worker: int) -> None:
    """End with the rank, not by the SIGTERM that Slurm sends to all of a job: the rank reads until it saved itself.

    A process that cannot send a batch, as it finds no open file left, ends too: else the rank would wait for ever.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, _batch: object) -> Never:
    traceback.print_exception(error)
    os._exit(1)


@contextmanager
def naming_dead_readers() -> Iterator[None]:
    """Say in a sentence that a reading process died; torch interrupts the rank wherever it is.

    Raises:
        MachineError: one did; it holds torch's words, by which logs of jobs are understood.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise MachineError(
            "a process that reads ahead for the training died, as one that is killed or finds no memory or open file "
            f"left: {str(error).partition('. ')[0]}"
        ) from error


def _read_on_one_core(batches: Iterable[Batch | Fault]) -> Generator[Batch | Fault]:
    """Read with one thread, so that the other cores are free for the training."""
    torch.set_num_threads(1)
    yield from batches


def workers_for(cores: int, world: World, threads: int) -> int:
    """Return the number of reading processes: one for each core that the rank's threads leave free, four at most.

    If it is 0 a thread reads: that costs the rank's core less than a process that sends it tensors. Ranks that meet
    through a file share one machine's cores; others have their own, bound by Slurm.
    """
    cores_of_rank = cores // (world.size if world.rendezvous.startswith("file:") else 1)
    return min(MOST_WORKERS, max(0, cores_of_rank - threads))
