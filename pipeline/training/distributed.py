"""What the processes that train one network together say to each other."""

import atexit
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeGuard

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from data_prep.errors import UserError
from pipeline.training.heartbeat import Watch
from pipeline.training.rendezvous import call_roll, card_of, check_gpus, connected
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
    """Join the process group of a world of several (NCCL for GPUs, gloo for CPUs); leave it at the end.

    While joined, each rank watches the others: where one falls silent, this process tells ``world.on_peer_lost``
    and ends with :data:`~pipeline.training.heartbeat.LOST_EXIT_CODE`. After an error the connections stay until the
    process ends, which should be soon: closed at once, they would let another rank speak first.

    Raises:
        UserError: two ranks have the same GPU.
        DistributionError: the ranks cannot meet, or are not those that they should be.
        PeerLost: another rank's end is what this one sees.
    """
    if world.size == 1:
        yield
        return
    store = connected(world, serves=world.leads)
    watch = Watch(world, connected(world, serves=False))
    try:
        check_gpus(call_roll(store, card_of(world, device)))
        watch.start()
        _init(world, device, store)
        yield
    except BaseException as error:
        atexit.register(_close, watch)
        if _is_of_a_connection(error):
            raise watch.explained(error) from error
        raise
    watch.leave()
    dist.destroy_process_group()


def _init(world: World, device: torch.device, store: Store) -> None:
    """One group for both: what lies on a CPU goes through gloo, even where the network is on GPUs."""
    if world.rendezvous.startswith(("file:", "tcp://localhost", "tcp://127.")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: its name need not resolve
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)


def _close(watch: Watch) -> None:
    """Left to the interpreter's end, torch's threads abort it; this may hang on its part, so others must miss us."""
    watch.fall_silent()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_a_connection(error: BaseException) -> TypeGuard[RuntimeError]:
    """Gloo raises plain errors that begin with the source file; NCCL and the store have their types."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def reduced(sums: dict[str, float], world: World, device: torch.device) -> dict[str, float]:
    """The sums over all ranks, added in float64; every rank must call it with the same names."""
    if world.size == 1:
        return dict(sums)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def compared(values: torch.Tensor, world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the largest of each of these float64 values over all ranks; every rank must call it."""
    if world.size == 1:
        return values, values
    total, largest = values.clone(), values.clone()
    dist.all_reduce(total)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return total / world.size, largest


def hosts(world: World) -> list[str]:
    """Names of the ranks' nodes, each once; every rank must call it."""
    names: list[Any] = [socket.gethostname()] * world.size
    if world.size > 1:
        dist.all_gather_object(names, socket.gethostname())
    return sorted(set(names))


def raised(flag: bool, world: World) -> bool:
    """Whether any rank raises the flag; every rank must call it. Waits for no GPU."""
    if world.size == 1:
        return flag
    held = torch.tensor([flag], dtype=torch.uint8)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return bool(held.item())


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
