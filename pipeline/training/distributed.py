"""What the processes that train one network together say to each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from pipeline.training.world import World

_TIMEOUT = timedelta(minutes=30)


def device_of(world: World) -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def joined(world: World) -> Iterator[None]:
    """Join the process group (NCCL on GPUs, gloo on CPUs) of a world of several; leave it at the end.

    Raises:
        RuntimeError: the ranks that met are not as many as the world's size.
    """
    if world.size == 1:
        yield
        return
    backend = "nccl" if device_of(world).type == "cuda" else "gloo"
    if world.rendezvous.startswith("file:"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: its name need not resolve
    if device_of(world).type == "cuda":
        torch.cuda.set_device(device_of(world))
    dist.init_process_group(
        backend, init_method=world.rendezvous, rank=world.rank, world_size=world.size, timeout=_TIMEOUT
    )
    try:
        found = reduced({"ranks": 1.0}, world)["ranks"]
        if found != world.size:
            raise RuntimeError(f"{found:g} ranks met, expected {world.size}")
        yield
    finally:
        dist.destroy_process_group()


def reduced(sums: dict[str, float], world: World) -> dict[str, float]:
    """The sums over all ranks, added in float64; every rank must call it with the same names."""
    if world.size == 1:
        return dict(sums)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device_of(world))
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def take_from_first(tensors: Iterator[torch.Tensor], world: World) -> None:
    """Overwrite the tensors with rank 0's."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def agreed(value: int, world: World) -> int:
    """Rank 0's value, on every rank."""
    if world.size == 1:
        return value
    held = torch.tensor([value], dtype=torch.int64, device=device_of(world))
    dist.broadcast(held, 0)
    return int(held.item())
