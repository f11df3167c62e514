"""How the ranks of a job find each other, and make sure that they are the right ones."""

import json
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from data_prep.errors import UserError
from pipeline.training.world import DistributionError, World

MEETING_SECONDS = 120.0
_POLL_SECONDS = 0.1
_FAULT = "fault"


@dataclass(frozen=True)
class Card:
    """What a rank tells the others of itself; ``gpu``: its UUID, or nothing on a CPU."""

    rank: int
    size: int
    host: str
    gpu: str


def card_of(world: World, device: torch.device) -> Card:
    """The card of this process."""
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    return Card(world.rank, world.size, socket.gethostname(), gpu)


def connected(world: World, *, serves: bool) -> Store:
    """A new connection to the store at which the ranks meet; ``serves``: this one holds it, where it is a server.

    Raises:
        DistributionError: it cannot be reached in time, or the rendezvous is no such place.
    """
    url = urlsplit(world.rendezvous)
    if url.scheme == "file" and Path(url.path).parent.is_dir():
        return FileStore(url.path, world.size)
    if url.scheme == "tcp" and url.hostname and url.port:
        return _within(MEETING_SECONDS, world, partial(_server_or_client, url.hostname, url.port, serves=serves))
    raise DistributionError(
        f"{world.rendezvous!r} is no place to meet: take tcp://host:port, or file:///... in a folder that exists"
    )


def _server_or_client(host: str, port: int, *, serves: bool) -> Store:
    limit = timedelta(seconds=MEETING_SECONDS)
    return TCPStore(host, port, is_master=serves, timeout=limit, wait_for_workers=False)


def _within(seconds: float, world: World, connect: Callable[[], Store]) -> Store:
    """What ``connect`` returns; torch's own limit does not hold where something accepts and never answers."""
    made: list[Store] = []
    errors: list[RuntimeError] = []

    def attempt() -> None:
        try:
            made.append(connect())
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if made:
        return made[0]
    reason = str(errors[0]).splitlines()[0] if errors else f"no answer in {seconds:g} s"
    raise DistributionError(
        f"rank {world.rank} cannot {'open' if world.leads else 'reach'} the meeting point of rank 0 at "
        f"{world.rendezvous.removeprefix('tcp://')} within {seconds:g} s: {reason}"
    )


def call_roll(store: Store, own: Card) -> list[Card]:
    """Show ``own`` to the others and wait for theirs; whoever finds a fault tells the others.

    Raises:
        DistributionError: ranks are missing, twice there, or of different ideas of the world's size.
    """
    try:
        _show(store, own)
        return _gathered(store, own)
    except DistributionError as error:
        store.set(_FAULT, str(error))
        raise


def _show(store: Store, own: Card) -> None:
    if own.rank >= own.size:
        raise DistributionError(f"there is no rank {own.rank} in a world of {own.size}, which counts from 0")
    if store.add(f"claims/{own.rank}", 1) > 1:
        raise DistributionError(
            f"two processes are rank {own.rank} of {own.size}, the second is process {os.getpid()} of {own.host}"
        )
    store.set(_key(own.rank), json.dumps(asdict(own)))


def _gathered(store: Store, own: Card) -> list[Card]:
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        if store.check([_FAULT]):
            raise DistributionError(store.get(_FAULT).decode())
        here = [rank for rank in range(own.size) if store.check([_key(rank)])]
        cards = [Card(**json.loads(store.get(_key(rank)))) for rank in here]
        _check_sizes(cards)
        if len(cards) == own.size:
            return cards
        if time.monotonic() > deadline:
            missing = ", ".join(str(rank) for rank in range(own.size) if rank not in here)
            raise DistributionError(
                f"{len(cards)} of {own.size} ranks came within {MEETING_SECONDS:g} s, missing: rank {missing}"
            )
        time.sleep(_POLL_SECONDS)


def _key(rank: int) -> str:
    return f"card/{rank}"


def _check_sizes(cards: Sequence[Card]) -> None:
    if len({card.size for card in cards}) > 1:
        told = ", ".join(f"{card.size} says rank {card.rank} on {card.host}" for card in cards)
        raise DistributionError(f"ranks do not agree on how many they are: {told}")


def check_gpus(cards: Sequence[Card]) -> None:
    """Make sure that each rank has a GPU of its own, or none.

    Raises:
        UserError: several have the same one.
    """
    users = defaultdict[tuple[str, str], list[int]](list)
    for card in cards:
        if card.gpu:
            users[card.host, card.gpu].append(card.rank)
    for (host, gpu), ranks in users.items():
        if len(ranks) > 1:
            raise UserError(
                f"ranks {', '.join(map(str, ranks))} have the same GPU {gpu} of {host}: "
                "give each rank its own, take fewer ranks, or `device: cpu`"
            )
