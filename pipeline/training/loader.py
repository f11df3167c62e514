"""Samples read ahead of the training."""

import os

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.dataset import PairSamples, RankBatches
from pipeline.training.settings import TrainingSettings
from pipeline.training.world import World

MOST_WORKERS = 4


def read_ahead(
    samples: PairSamples, batches: RankBatches, settings: TrainingSettings, world: World, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Batches in their order, decoded by worker processes before they are asked for; pinned for GPUs.

    Workers are forked from this process: children of a fork server would not see it die.
    """
    workers = settings.loader_workers
    if workers is None:
        workers = workers_for(len(os.sched_getaffinity(0)), world, settings.threads)
    return DataLoader(
        samples, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip


def workers_for(cores: int, world: World, threads: int) -> int:
    """As many as this rank's share of the cores leaves free beside its own threads, four at most.

    Where none is free the rank reads by itself, which takes less of its core than a process that hands it tensors.
    Ranks that meet through a file share one machine's cores; others have cores of their own, bound by Slurm.
    """
    own = cores // (world.size if world.rendezvous.startswith("file:") else 1)
    return min(MOST_WORKERS, max(0, own - threads))
