"""Samples read ahead of the training."""

import os
import signal
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.dataset import PairSamples, RankBatches
from pipeline.prefetch import prefetch
from pipeline.settings.training import TrainingSettings
from pipeline.training.world import World

MOST_WORKERS = 4
Batch = tuple[Tensor, Tensor, Tensor]


def read_ahead(
    samples: PairSamples, batches: RankBatches, settings: TrainingSettings, world: World, device: torch.device
) -> Iterator[Batch]:
    """Batches in their order, decoded before they are asked for; pinned for GPUs.

    Worker processes read, or without any a thread. Workers are forked from this process: children of a fork
    server would not see it die.
    """
    workers = settings.loader_workers
    if workers is None:
        workers = workers_for(len(os.sched_getaffinity(0)), world, settings.threads)
    loader: DataLoader[Batch] = DataLoader(
        samples, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None, worker_init_fn=_outlive_sigterm,
    )  # fmt: skip
    return iter(loader) if workers else prefetch(_by_one_core(loader))


def _outlive_sigterm(_worker: int) -> None:
    """Slurm sends it to all processes of a job; the rank is to save itself at its next step, and reads until then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _by_one_core(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Read by a thread of its own, which leaves the other cores to those who compute."""
    torch.set_num_threads(1)
    yield from batches


def workers_for(cores: int, world: World, threads: int) -> int:
    """As many as this rank's share of the cores leaves free beside its own threads, four at most.

    Where none is free a thread reads, which takes less of the rank's core than a process that hands it tensors.
    Ranks that meet through a file share one machine's cores; others have cores of their own, bound by Slurm.
    """
    own = cores // (world.size if world.rendezvous.startswith("file:") else 1)
    return min(MOST_WORKERS, max(0, own - threads))
