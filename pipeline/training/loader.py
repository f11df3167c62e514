"""Batches of samples, read before a training needs them."""

import os
import signal
from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_prep.processes import end_with_parent
from pipeline.dataset import PairSamples, RankBatches
from pipeline.prefetch import prefetch
from pipeline.settings.training import TrainingSettings
from pipeline.training.world import World

MOST_WORKERS = 4
Batch = tuple[Tensor, Tensor, Tensor]


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
    loader: DataLoader[Batch] = DataLoader(
        samples, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None, worker_init_fn=bind_to_rank,
        generator=torch.Generator(),  # torch's own is that of dropout, whose numbers would shift
    )  # fmt: skip
    return _yield_from(iter(loader) if workers else prefetch(_read_on_one_core(loader)))


def repeat_first(batches: Generator[Batch]) -> Generator[Batch]:
    """Yield the first batch for ever, and end the reading of the others."""
    with closing(batches):
        first = next(batches)
    yield from repeat(first)


def _yield_from(batches: Iterable[Batch]) -> Generator[Batch]:
    yield from batches


def bind_to_rank(_worker: int) -> None:
    """End with the rank, not by the SIGTERM that Slurm sends to all of a job: the rank reads until it saved itself."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _read_on_one_core(batches: Iterable[Batch]) -> Generator[Batch]:
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
