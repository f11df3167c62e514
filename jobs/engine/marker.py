"""Markers: what became of each item of a stage. A marker is written last, atomically."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.files import is_locked, sibling, write_atomic, write_json

State = Literal["done", "refused", "failed"]


@dataclass(frozen=True)
class Marker:
    """``refused``: the user's data or settings are at fault; ``failed``: anything else.

    ``parts`` is what the item depends on; ``seconds`` how long it took; ``finished`` Unix time.
    """

    state: State
    parts: dict[str, Any]
    finished: float
    seconds: float
    reason: str
    result: dict[str, Any]


class Markers:
    """The markers of one stage, in ``root/markers/<stage>``."""

    def __init__(self, root: Path, stage: str) -> None:
        self.folder = root / "markers" / stage

    def read(self, item: str) -> Marker | None:
        """The item's marker, or None."""
        try:
            return Marker(**json.loads(self._path(item).read_text()))
        except FileNotFoundError:
            return None

    def write(self, item: str, marker: Marker) -> None:
        """Record the end of an item."""
        write_json(self._path(item), marker.__dict__)

    def remove(self, item: str) -> None:
        """Forget an item, before it is run again."""
        self._path(item).unlink(missing_ok=True)

    def begun(self, item: str) -> str | None:
        """What :meth:`begin` noted last."""
        path = self.folder / f"{item}.begun"
        return path.read_text() if path.exists() else None

    def begin(self, item: str, digest: str) -> None:
        """Note that the item is begun with parts of this digest."""
        write_atomic(self.folder / f"{item}.begun", digest)

    def lock(self, item: str) -> Path:
        """The file that whoever runs the item holds locked."""
        return self.folder / f"{item}.lock"

    def running(self, item: str) -> bool:
        """Whether a process holds the item's lock."""
        return is_locked(self.lock(item))

    def report_progress(self, item: str, done: int, total: int, note: str) -> None:
        """Say how far a running item is; for people, so it is not fsynced."""
        path = self._progress(item)
        temporary = sibling(path)
        temporary.write_text(json.dumps({"done": done, "total": total, "note": note, "at": time.time()}))
        os.replace(temporary, path)

    def progress(self, item: str) -> dict[str, Any] | None:
        """What :meth:`report_progress` last said."""
        try:
            said: dict[str, Any] = json.loads(self._progress(item).read_text())
        except FileNotFoundError:
            return None
        return said

    def clear_progress(self, item: str) -> None:
        """Forget it."""
        self._progress(item).unlink(missing_ok=True)

    def _path(self, item: str) -> Path:
        return self.folder / f"{item}.json"

    def _progress(self, item: str) -> Path:
        return self.folder / f"{item}.progress"
