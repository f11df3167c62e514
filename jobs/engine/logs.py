"""Logs of a run's items: those that tell why an item failed, each from the item's newest start on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.item_states import ItemState, QueueState
from jobs.engine.stage import Ref
from jobs.engine.worker import PEER_LOST
from slurm.calls import STARTED
from slurm.causes import find_cause

UNSUCCESSFUL = ("failed", "refused")
"""States of items whose logs tell why."""
_TAIL_LINES = 40
_START = re.compile(rf"^(?:\S+/\S+: started as rank|{STARTED})", re.MULTILINE)
Log = tuple[Path, str]


@dataclass(frozen=True)
class Logs:
    """Logs of the items of a run, in its folder ``root``; ``queue``: of the items whose jobs Slurm knows."""

    root: Path
    graph: Graph
    queue: Mapping[Ref, QueueState]

    def of_failed(self, states: Mapping[Ref, ItemState]) -> list[Log]:
        """Return the last lines of the logs of failed items; ranks that failed only as they lost another come last."""
        failed = [ref for ref, state in states.items() if state.state in UNSUCCESSFUL]
        logs = {path: text for ref in failed for path, text in self._find(ref)}
        by_guilt = sorted(logs.items(), key=lambda log: PEER_LOST in log[1])
        return [(path, _tail(text, find_cause(text))) for path, text in by_guilt]

    def current(self, states: dict[Ref, ItemState]) -> Log | None:
        """Return the last lines of the log of an item that is running, or else of the last item that has a log."""
        refs = [*(ref for ref, state in states.items() if state.state == "running"), *reversed(states)]
        path, text = next((log for ref in refs for log in self._find(ref)), (None, ""))
        return (path, _tail(text, None)) if path else None

    def _find(self, ref: Ref) -> Iterator[Log]:
        """Yield the logs of an item's newest start, from there on; else those of its jobs, if none came to it."""
        marker, queued = self.graph.marker(ref) if ref[0] in self.graph.stages else None, self.queue.get(ref)
        is_queued = queued is not None and (marker is None or bool(marker.job))
        paths = self._of_jobs(*queued.submission.jobs) if queued and is_queued else self._of_stage(ref[0])
        parts = [(path, part) for path in paths if (part := _newest_part(_read(path), "/".join(ref)))]
        yield from parts or [(path, _newest_start(_read(path))) for path in paths if is_queued]

    def _of_jobs(self, *jobs: str) -> list[Path]:
        return [path for path in self._queue_logs if path.name.partition("_")[0] in jobs]

    def _of_stage(self, stage: str) -> list[Path]:
        """List logs of this machine in which an item of a stage may stand: those of its processes, and submitit's."""
        return [path for path in self._local_logs if path.name.startswith((f"{stage}.", *"123456789"))]

    @cached_property
    def _queue_logs(self) -> list[Path]:
        return sorted((self.root / "logs" / "slurm").glob("*_log.out"))

    @cached_property
    def _local_logs(self) -> list[Path]:
        return sorted(path for pattern in ("*.log", "submitit/*_log.*") for path in (self.root / "logs").glob(pattern))


@cache
def _read(path: Path) -> str:
    return path.read_text(errors="replace")


def _tail(text: str, cause: str | None) -> str:
    return "\n".join([*text.splitlines()[-_TAIL_LINES:], *([f"cause: {cause}"] if cause else [])])


def _newest_part(text: str, name: str) -> str:
    """Return what was written from the item's last start on, until another one starts; empty if it is not there."""
    start = text.rfind(f"{name}: started as rank")
    if start < 0:
        return ""
    following = _START.search(text, start + 1)
    return text[start : following.start() if following else None]


def _newest_start(text: str) -> str:
    """Return what was written from the last start of the job on."""
    starts = [match.start() for match in _START.finditer(text)]
    return text[starts[-1] :] if starts else text
