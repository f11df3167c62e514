"""The exchange of gradients between ranks: DDP, with times of the exchange."""

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

Averaged = torch.futures.Future[torch.Tensor]
BUCKET_MIB = 2  # all gradients are 10 MiB: DDP's default of 25 would be one bucket, sent after the backward pass


def exchange_gradients(
    network: nn.Module, settings: TrainingSettings, device: torch.device, clock: StepClock
) -> nn.Module:
    """Wrap the network so that its gradients are averaged over all ranks during the backward pass.

    Running statistics are not exchanged, since no training step reads them; validation and checkpoints use those of
    rank 0. The clock marks the end of the backward pass and the exchange of each bucket.
    """
    ddp = DistributedDataParallel(
        network,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=settings.accumulation == 1,
        bucket_cap_mb=BUCKET_MIB,
    )
    ddp.broadcast_buffers = False  # as an argument, it would leave the buffers unequal at the start, and is deprecated
    ddp.register_comm_hook(clock, _in_bfloat16 if settings.gradients == "bfloat16" else _in_full)
    return ddp


def _in_full(clock: StepClock, bucket: GradBucket) -> Averaged:
    return _with_times(clock, bucket, allreduce_hook)


def _in_bfloat16(clock: StepClock, bucket: GradBucket) -> Averaged:
    return _with_times(clock, bucket, bf16_compress_hook)


def _with_times(clock: StepClock, bucket: GradBucket, hook: Callable[..., Averaged]) -> Averaged:
    start = clock.read()
    if bucket.is_last():
        clock.mark("backward")

    def finish(future: Averaged) -> torch.Tensor:
        clock.add_exchange(start)
        return future.value()

    return hook(dist.group.WORLD, bucket).then(finish)


def is_exchanging(network: nn.Module) -> bool:
    """Whether the network's backward pass exchanges gradients."""
    return hasattr(network, "no_sync")


def without_exchange(network: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which a backward pass adds to this rank's gradients and exchanges none."""
    no_sync: Callable[[], AbstractContextManager[Any]] = getattr(network, "no_sync", nullcontext)
    return no_sync()
