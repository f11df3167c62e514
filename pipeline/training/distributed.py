"""What the processes that train one network together say to each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from data_prep.errors import UserError
from pipeline.training.world import World

_TIMEOUT = timedelta(minutes=30)


def device_of(world: World, wanted: Literal["auto", "cpu"] = "auto") -> torch.device:
    """The GPU of this rank, or the CPU where there is none or it is wanted.

    Raises:
        UserError: this machine has GPUs, but fewer than ranks.
    """
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"rank {world.local_rank} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: "
            "take fewer ranks or `device: cpu`"
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Join the process group (NCCL on GPUs, gloo on CPUs) of a world of several; leave it at the end.

    Raises:
        RuntimeError: the ranks that met are not as many as the world's size.
    """
    if world.size == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world.rendezvous.startswith("file:"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: its name need not resolve
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=world.rendezvous, rank=world.rank, world_size=world.size, timeout=_TIMEOUT
    )
    try:
        found = reduced({"ranks": 1.0}, world, device)["ranks"]
        if found != world.size:
            raise RuntimeError(f"{found:g} ranks met, expected {world.size}")
        yield
    finally:
        dist.destroy_process_group()


def reduced(sums: dict[str, float], world: World, device: torch.device) -> dict[str, float]:
    """The sums over all ranks, added in float64; every rank must call it with the same names."""
    if world.size == 1:
        return dict(sums)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def take_from_first(tensors: Iterator[torch.Tensor], world: World) -> None:
    """Overwrite the tensors with rank 0's."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def agreed(value: int, world: World, device: torch.device) -> int:
    """Rank 0's value, on every rank."""
    if world.size == 1:
        return value
    held = torch.tensor([value], dtype=torch.int64, device=device)
    dist.broadcast(held, 0)
    return int(held.item())


def raised(flags: list[bool], world: World) -> list[bool]:
    """Whether any rank raises each flag."""
    if world.size == 1:
        return flags
    held = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return [bool(x) for x in held.tolist()]
