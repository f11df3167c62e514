"""Logs of a run's items: those that tell why an item failed, each from the item's newest start on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.item_states import ItemState, QueueState
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.engine.worker import PEER_LOST
from slurm.causes import find_cause

_TAIL_LINES = 40
_START = re.compile(r"^(?:\S+/\S+: started as rank|submitit INFO .* - Starting with JobEnvironment)", re.MULTILINE)
Log = tuple[Path, str]


def failing_logs(
    folder: RunFolder, graph: Graph, states: dict[Ref, ItemState], queue: Mapping[Ref, QueueState]
) -> list[Log]:
    """Return the last lines of the logs of failed items; those that failed only as they lost another rank come last."""
    failed = [ref for ref, state in states.items() if state.state in ("failed", "refused")]
    logs = {path: text for ref in failed for path, text in _logs_of(folder, graph, ref, queue.get(ref))}
    by_guilt = sorted(logs.items(), key=lambda log: PEER_LOST in log[1])
    return [(path, _tail(text, find_cause(text))) for path, text in by_guilt]


def current_log(
    folder: RunFolder, graph: Graph, states: dict[Ref, ItemState], queue: Mapping[Ref, QueueState]
) -> Log | None:
    """Return the last lines of the log of an item that is running, or else of the last one that has a log."""
    refs = [*(ref for ref, state in states.items() if state.state == "running"), *reversed(states)]
    logs = (log for ref in refs for log in _logs_of(folder, graph, ref, queue.get(ref)))
    newest = next(logs, None)
    return (newest[0], _tail(newest[1], None)) if newest else None


def _tail(text: str, cause: str | None) -> str:
    return "\n".join([*text.splitlines()[-_TAIL_LINES:], *([f"cause: {cause}"] if cause else [])])


def _logs_of(folder: RunFolder, graph: Graph, ref: Ref, queued: QueueState | None) -> Iterator[Log]:
    """Yield the logs of an item's newest start, from there on; else those of its jobs, if these never came to it."""
    marker = graph.marker(ref) if ref[0] in graph.stages else None
    is_queued = queued is not None and (marker is None or bool(marker.job))
    jobs = queued.submission.jobs if queued and is_queued else ()
    paths = _queue_logs(folder, jobs) if is_queued else _local_logs(folder, ref)
    texts = [(path, path.read_text(errors="replace")) for path in paths]
    own = [(path, part) for path, text in texts if (part := _newest_part(text, "/".join(ref)))]
    yield from own or [(path, _newest_start(text)) for path, text in texts if is_queued]


def _queue_logs(folder: RunFolder, jobs: Sequence[str]) -> list[Path]:
    return sorted(path for job in jobs for path in (folder.root / "logs" / "slurm").glob(f"{job}_*_log.out"))


def _local_logs(folder: RunFolder, ref: Ref) -> list[Path]:
    """List logs of this machine: those that are named after the item, or else those of all workers of its stage."""
    logs, (stage, item) = folder.root / "logs", ref
    named = [*logs.glob(f"{stage}.{escape(item)}.log"), *logs.glob(f"{stage}.{escape(item)}.rank*.log")]
    submitted = sorted(logs.glob("submitit/*_log.*"))
    return [*sorted(named), *sorted({*logs.glob(f"{stage}.*.log")} - {*named}), *submitted]


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
