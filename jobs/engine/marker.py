"""Markers: small files that say how each item of a stage ended. They are written last, atomically."""

import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.files import is_locked, sibling, write_atomic
from data_prep.seal import BrokenSeal, read_sealed, write_sealed
from slurm.job import start_of_job

State = Literal["done", "refused", "failed"]
STOPPED = {"stopped": True}
"""Result of an item that a signal asked to stop."""


def _name_attempt() -> str:
    return f"{start_of_job()}/{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Marker:
    """How an item ended: ``refused`` by the user's data or settings, ``failed`` by anything else, or ``done``.

    The file has these fields as keys, and a digest of them. ``parts`` is what the item depends on, ``seconds`` how
    long it took, ``finished`` Unix time for people, ``result`` what the stage's ``run`` returned. ``outputs``: digests
    by path below the run folder. ``product``: digest of what later items read. ``attempt``: a name of its own
    for each time that the item was tried.
    """

    state: State
    parts: dict[str, Any]
    finished: float
    seconds: float
    reason: str
    result: dict[str, Any]
    outputs: dict[str, str] = field(default_factory=dict)
    product: str = ""
    attempt: str = field(default_factory=_name_attempt)

    @property
    def job(self) -> str:
        """Job of Slurm that recorded it, as squeue shows its id; empty if none did."""
        return self.attempt.rpartition("/")[0].partition(".")[0]

    @property
    def is_stopped(self) -> bool:
        """Whether it failed only as a signal asked it to stop."""
        return self.result == STOPPED

    @property
    def stamp(self) -> str:
        """What items that depend on this one compare: its product, or how it ended without one."""
        return self.product if self.state == "done" else f"{self.state}: {self.reason}"


class Markers:
    """Markers, progress and locks of one stage's items, in ``root/markers/<stage>``.

    ``siblings``: stages that hand items to one another as settings change. What one of them began is recorded in its
    folder from then on, so that an item has a single record, whichever of them does it.
    """

    def __init__(self, root: Path, stage: str, siblings: Sequence[str] = ()) -> None:
        self.folder = root / "markers" / stage
        self._folders = [self.folder, *(root / "markers" / name for name in siblings if name != stage)]

    def read(self, item: str) -> Marker | None:
        """Read the item's marker; None if it has not ended. An item whose marker was changed failed: it runs again."""
        try:
            return Marker(**read_sealed(self._path(item)))
        except FileNotFoundError:
            return None
        except (BrokenSeal, TypeError):
            reason = f"{self._path(item)} was cut or changed, or is of another version of quarterdose"
            return Marker("failed", {}, 0.0, 0.0, reason, {}, attempt="")

    def folder_of(self, item: str) -> Path:
        """Return the folder with the records of an item."""
        records = (f"{item}.begun", f"{item}.json")
        folders = (folder for folder in self._folders if any((folder / record).exists() for record in records))
        return self.folder if len(self._folders) == 1 else next(folders, self.folder)

    def names(self) -> set[str]:
        """List all files with records, by one look at each folder."""
        return {name for folder in self._folders if folder.is_dir() for name in os.listdir(folder)}

    def items(self) -> list[str]:
        """List all items that have a marker."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def has_ended_here(self, item: str) -> bool:
        """Whether the item is done, or ended in this start of this job of Slurm."""
        marker = self.read(item)
        return marker is not None and (marker.state == "done" or marker.attempt.startswith(f"{start_of_job()}/"))

    def is_done(self, item: str) -> bool:
        """Whether the item ended well."""
        marker = self.read(item)
        return marker is not None and marker.state == "done"

    def write(self, item: str, marker: Marker) -> None:
        """Record how the item ended."""
        write_sealed(self._path(item), marker.__dict__)

    def write_death(self, item: str, reason: str, seconds: float = 0.0) -> None:
        """Record that the item failed because its process died, unless it recorded an end or another is at it."""
        if self.read(item) is None and not self.is_running(item):
            self.write(item, Marker("failed", {}, time.time(), seconds, reason, {}))
            self.clear_progress(item)

    def write_damage(self, item: str, reason: str) -> None:
        """Record that the outputs of a completed item were damaged since, so that it runs again."""
        if self.is_done(item):
            self.write(item, Marker("failed", {}, time.time(), 0.0, reason, {}))

    def remove(self, item: str) -> None:
        """Remove the item's marker, before it is run again."""
        self._path(item).unlink(missing_ok=True)

    def remove_unchanged(self, item: str, marker: Marker | None) -> bool:
        """Remove a marker that was read before, unless the item has another by now; return whether it was removed."""
        is_same = marker is not None and self.read(item) == marker
        if is_same:
            self.remove(item)
        return is_same

    def read_start(self, item: str) -> str | None:
        """Read the digest that :meth:`write_start` recorded last; None if the item never started."""
        words = self._read_start(item)
        return words[0] if words else None

    def write_start(self, item: str, digest: str, rendezvous: str) -> None:
        """Record that the item starts, with the digest of its parts, by the ranks that meet at ``rendezvous``."""
        write_atomic(self._start(item), f"{digest} {start_of_job()} {rendezvous}")

    def is_run_by_others(self, item: str, rendezvous: str) -> bool:
        """Whether ranks are at the item that meet elsewhere."""
        return self.is_running(item) and self._read_start(item)[1:] != f"{start_of_job()} {rendezvous}".split()

    def lock(self, item: str) -> Path:
        """Path of the file that the process which runs the item holds locked."""
        return self.folder_of(item) / f"{item}.lock"

    def is_running(self, item: str) -> bool:
        """Whether a process holds the item's lock."""
        return is_locked(self.lock(item))

    def write_progress(self, item: str, completed: int, total: int, note: str) -> None:
        """Write how far the running item is; for people, so it is not fsynced."""
        path = self._progress(item)
        temporary = sibling(path)
        temporary.write_text(json.dumps({"done": completed, "total": total, "note": note}))
        os.replace(temporary, path)

    def read_progress(self, item: str) -> dict[str, Any] | None:
        """Read ``done``, ``total`` and ``note`` of an item that has started and not ended."""
        try:
            progress: dict[str, Any] = json.loads(self._progress(item).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return progress

    def clear_progress(self, item: str) -> None:
        """Remove the item's progress."""
        self._progress(item).unlink(missing_ok=True)

    def _read_start(self, item: str) -> list[str]:
        path = self._start(item)
        return path.read_text(errors="replace").split() if path.exists() else []

    def _start(self, item: str) -> Path:
        return self.folder_of(item) / f"{item}.begun"

    def _path(self, item: str) -> Path:
        return self.folder_of(item) / f"{item}.json"

    def _progress(self, item: str) -> Path:
        return self.folder_of(item) / f"{item}.progress"
