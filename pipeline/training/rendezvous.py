"""Rendezvous of the ranks of a job: they connect to one store and check that their ranks and sizes fit together."""

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
    """Description of a rank for the other ranks; ``gpu``: the GPU's UUID, empty on a CPU."""

    rank: int
    size: int
    host: str
    gpu: str


def card_of(world: World, device: torch.device) -> Card:
    """Describe this process."""
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    return Card(world.rank, world.size, socket.gethostname(), gpu)


def connect(world: World, *, serves: bool) -> Store:
    """Open a connection to the store at which the ranks meet; ``serves``: start its server, if it needs one.

    Raises:
        DistributionError: it cannot be reached in time, or the rendezvous is not a valid address.
    """
    url = urlsplit(world.rendezvous)
    if url.scheme == "file" and Path(url.path).parent.is_dir():
        return FileStore(url.path, world.size)
    if url.scheme == "tcp" and url.hostname and url.port:
        return _connect_within(MEETING_SECONDS, world, partial(_tcp_store, url.hostname, url.port, serves=serves))
    raise DistributionError(
        f"{world.rendezvous!r} is no place to meet: take tcp://host:port, or file:///... in a folder that exists"
    )


def _tcp_store(host: str, port: int, *, serves: bool) -> Store:
    limit = timedelta(seconds=MEETING_SECONDS)
    return TCPStore(host, port, is_master=serves, timeout=limit, wait_for_workers=False)


def _connect_within(seconds: float, world: World, open_store: Callable[[], Store]) -> Store:
    """Open the store in a thread, with a limit: torch's own does not end where a server accepts but never answers."""
    stores: list[Store] = []
    errors: list[RuntimeError] = []

    def attempt() -> None:
        try:
            stores.append(open_store())
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if stores:
        return stores[0]
    reason = str(errors[0]).splitlines()[0] if errors else f"no answer in {seconds:g} s"
    raise DistributionError(
        f"rank {world.rank} cannot {'open' if world.leads else 'reach'} the meeting point of rank 0 at "
        f"{world.rendezvous.removeprefix('tcp://')} within {seconds:g} s: {reason}"
    )


def call_roll(store: Store, card: Card) -> list[Card]:
    """Put this rank's card into the store, wait for those of all ranks and return them.

    A rank that detects a fault puts it into the store too, so that all ranks raise it.

    Raises:
        DistributionError: a rank is missing or there twice, or ranks differ on the world's size.
    """
    try:
        _write_card(store, card)
        return _gather_cards(store, card)
    except DistributionError as error:
        store.set(_FAULT, str(error))
        raise


def _write_card(store: Store, card: Card) -> None:
    if card.rank >= card.size:
        raise DistributionError(f"there is no rank {card.rank} in a world of {card.size}, which counts from 0")
    if store.add(f"claims/{card.rank}", 1) > 1:
        raise DistributionError(
            f"two processes are rank {card.rank} of {card.size}, the second is process {os.getpid()} of {card.host}"
        )
    store.set(_key(card.rank), json.dumps(asdict(card)))


def _gather_cards(store: Store, card: Card) -> list[Card]:
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        if store.check([_FAULT]):
            raise DistributionError(store.get(_FAULT).decode())
        present = [rank for rank in range(card.size) if store.check([_key(rank)])]
        cards = [Card(**json.loads(store.get(_key(rank)))) for rank in present]
        _check_sizes(cards)
        if len(cards) == card.size:
            return cards
        if time.monotonic() > deadline:
            missing = ", ".join(str(rank) for rank in range(card.size) if rank not in present)
            raise DistributionError(
                f"{len(cards)} of {card.size} ranks came within {MEETING_SECONDS:g} s, missing: rank {missing}"
            )
        time.sleep(_POLL_SECONDS)


def _key(rank: int) -> str:
    return f"card/{rank}"


def _check_sizes(cards: Sequence[Card]) -> None:
    if len({card.size for card in cards}) > 1:
        sizes = ", ".join(f"{card.size} says rank {card.rank} on {card.host}" for card in cards)
        raise DistributionError(f"ranks do not agree on how many they are: {sizes}")


def check_gpus(cards: Sequence[Card]) -> None:
    """Check that no two ranks use the same GPU.

    Raises:
        UserError: two do.
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
