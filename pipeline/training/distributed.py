"""The process group of the ranks of one training: its device, how a rank joins it, and how it leaves."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeGuard

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from data_prep.errors import UserError
from pipeline.training.heartbeat import Watch
from pipeline.training.rendezvous import call_roll, card_of, check_gpus, connect
from pipeline.training.world import World

_TIMEOUT = timedelta(minutes=30)


def device_of(world: World, setting: Literal["auto", "cpu"] = "auto") -> torch.device:
    """Choose the GPU of this rank; the CPU where the machine has no GPU or the setting says so.

    Raises:
        UserError: this machine has GPUs, but fewer than ranks.
    """
    if setting == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"rank {world.local_rank} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: "
            "take fewer ranks or `device: cpu`"
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Join the process group (NCCL for GPUs, gloo for CPUs) and leave it at the end; a single rank needs none.

    In between, each rank watches the others. If one falls silent, this process calls ``world.on_peer_lost`` and ends
    with :data:`~pipeline.training.heartbeat.LOST_EXIT_CODE`. After an error the connections stay open until the
    process ends, which should be soon: closed at once, they would let other ranks fail and be reported first.

    Raises:
        UserError: two ranks have the same GPU.
        DistributionError: the ranks cannot meet, or their ranks and sizes do not fit together.
        PeerLost: another rank ended, and this one lost its connection to it.
    """
    if world.size == 1:
        yield
        return
    store = connect(world, serves=world.leads)
    watch = Watch(world, connect(world, serves=False))
    try:
        check_gpus(call_roll(store, card_of(world, device)))
        watch.start()
        _init(world, device, store)
        yield
    except BaseException as error:
        atexit.register(_close, watch)
        if _is_lost_connection(error):
            raise watch.explain(error) from error
        raise
    watch.leave()
    dist.destroy_process_group()


def _init(world: World, device: torch.device, store: Store) -> None:
    """Open one group for both devices: tensors on a CPU go through gloo, also where the network is on GPUs."""
    if world.rendezvous.startswith(("file:", "tcp://localhost", "tcp://127.")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: its name need not resolve
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)


def _close(watch: Watch) -> None:
    """Close the group before the interpreter ends, as torch's threads would abort it.

    This may hang, so the heartbeat stops first and the other ranks notice that this one is gone.
    """
    watch.fall_silent()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_lost_connection(error: BaseException) -> TypeGuard[RuntimeError]:
    """Whether the error is a lost connection: gloo raises plain errors that name its source files."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
