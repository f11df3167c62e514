"""How the gradients of the ranks become one: DDP, with an exchange that is measured."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from pipeline.settings.training import TrainingSettings
from pipeline.training.clock import StepClock
from pipeline.training.world import World

Arriving = torch.futures.Future[torch.Tensor]
BUCKET_MIB = 2  # the network's gradients are 10 MiB: of 25, DDP's own choice, there would be nothing to overlap


def shared(
    network: nn.Module, settings: TrainingSettings, world: World, device: torch.device, clock: StepClock
) -> nn.Module:
    """The network, with gradients that are averaged over the ranks during the backward pass.

    A rank alone has nobody to exchange with, and needs no DDP.

    Running statistics stay each rank's own, since a training step does not read them; who validates or
    saves takes those of rank 0. The clock is told when the last gradients are ready, and how long each
    bucket travels.
    """
    if world.size == 1:
        return network
    ddp = DistributedDataParallel(
        network,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        static_graph=settings.accumulation == 1,
        bucket_cap_mb=BUCKET_MIB,
    )
    ddp.register_comm_hook(clock, _compressed if settings.gradients == "bfloat16" else _plain)
    return ddp


def _plain(clock: StepClock, bucket: GradBucket) -> Arriving:
    return _timed(clock, bucket, allreduce_hook)


def _compressed(clock: StepClock, bucket: GradBucket) -> Arriving:
    return _timed(clock, bucket, bf16_compress_hook)


def _timed(clock: StepClock, bucket: GradBucket, hook: Callable[..., Arriving]) -> Arriving:
    began = clock.now()
    if bucket.is_last():
        clock.mark("backward")

    def arrived(future: Arriving) -> torch.Tensor:
        clock.exchanged(began)
        return future.value()

    return hook(dist.group.WORLD, bucket).then(arrived)


def without_exchange(network: nn.Module) -> AbstractContextManager[Any]:
    """While gradients are only accumulated, none travel."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
