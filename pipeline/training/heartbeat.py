"""Heartbeats: each rank writes to the store every second, and ends its process when another rank falls silent."""

import os
import threading
import time
import traceback

from torch.distributed import Store  # type: ignore[attr-defined]

from data_prep.log import logger
from pipeline.training.world import PeerLost, World

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 15.0
LOST_EXIT_CODE = os.EX_UNAVAILABLE
"""Exit code of a process that ended itself because another rank fell silent."""
_TICK_SECONDS = 0.5
_LEFT, _BEREFT = b"left", b"bereft "


class Watch:
    """Writes this rank's beats and reads the others', in threads: the main thread may hang or be busy for long.

    One thread reads and writes the store; each of its calls can hang for ever if the store's server is stopped. So
    another thread counts how long each rank was silent. It counts its own ticks instead of reading a clock: after a
    job was suspended as a whole, no rank counts as silent.
    """

    def __init__(self, world: World, store: Store) -> None:
        self._world, self._store = world, store
        self._key, self._keys = f"beat/{world.rank}", [f"beat/{rank}" for rank in range(world.size)]
        self._heard = [b""] * world.size
        self._tick, self._heard_at = 0, [0] * world.size
        self._leaving, self._over = threading.Event(), threading.Event()
        self._trouble, self._state = "", b""
        self._talker = threading.Thread(target=self._talk, name="beats", daemon=True)
        store.set(self._key, "0")

    def start(self) -> None:
        """Start both threads; every rank must have created its watch before."""
        self._talker.start()
        threading.Thread(target=self._judge, name="silences", daemon=True).start()

    def leave(self) -> None:
        """Sign off, so that no rank takes this one for lost; rank 0, which may run the store, leaves last.

        Raises:
            PeerLost: the store is gone.
        """
        self._leaving.set()
        self._talker.join()
        self._over.set()
        if self._trouble:
            raise PeerLost(f"rank {self._world.rank} could not take leave: {self._trouble}")

    def fall_silent(self) -> None:
        """Stop without signing off: the other ranks shall notice that this one is gone."""
        self._over.set()
        self._leaving.set()

    def explain(self, error: Exception) -> PeerLost:
        """Return the error that names the lost rank after a connection broke: waits to see whose beats end."""
        self._state = _BEREFT
        time.sleep(1.1 * BEAT_SECONDS)  # all earlier beats are read by then
        before = list(self._heard)
        time.sleep(2.4 * BEAT_SECONDS)  # a living rank's beat is read after two periods at the latest
        silent = [rank for rank, word in enumerate(self._heard) if word == before[rank] != _LEFT]
        who = f"{self._name(silent)} fell silent" if silent else "though all of them still beat"
        if self._world.leads:
            time.sleep(2 * BEAT_SECONDS)  # it may run the store, which the others still need to learn the same
        return PeerLost(f"rank {self._world.rank} lost its connection to another rank, {who} ({_short(error)})")

    def _talk(self) -> None:
        try:
            self._beat()
            if not self._over.is_set():
                self._sign_off()
        except RuntimeError as error:  # the other thread will see all ranks silent, unless the main thread ends before
            self._trouble = _short(error)

    def _beat(self) -> None:
        count = 0
        while not self._leaving.wait(BEAT_SECONDS):
            count += 1
            self._store.set(self._key, f"{self._state.decode()}{count}")
            self._listen()

    def _listen(self) -> None:
        for rank, word in enumerate(self._store.multi_get(self._keys)):
            if word != self._heard[rank]:
                self._heard[rank], self._heard_at[rank] = word, self._tick

    def _sign_off(self) -> None:
        self._store.set(self._key, _LEFT.decode())
        while self._world.leads and any(word != _LEFT for word in self._heard):
            self._listen()
            time.sleep(0.05)

    def _judge(self) -> None:
        limit = SILENCE_SECONDS / _TICK_SECONDS
        while not self._over.wait(_TICK_SECONDS):
            self._tick += 1
            silent = [
                rank
                for rank, (word, at) in enumerate(zip(self._heard, self._heard_at, strict=True))
                if word != _LEFT and self._tick - at > limit
            ]
            if silent:
                self._end(PeerLost(f"{self._name(silent)} gave no sign of life for {SILENCE_SECONDS:g} s"))

    def _name(self, silent: list[int]) -> str:
        """Name the silent ranks, if possible only those that did not themselves end because of another one."""
        if self._world.rank not in silent:
            first = [rank for rank in silent if not self._heard[rank].startswith(_BEREFT)] or silent
            return f"rank {', '.join(map(str, first))} of {self._world.size}"
        url = self._world.rendezvous  # not even this rank's own beats come back: the store is gone
        return f"rank 0 at {url}" if url.startswith("tcp:") else f"the meeting point {url}"

    def _end(self, error: PeerLost) -> None:
        self._state = _BEREFT
        logger.error(f"rank {self._world.rank} ends: {error}")
        try:
            self._world.on_peer_lost(error)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(LOST_EXIT_CODE)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0]
