"""The state of each item of a run, for people: by one look at its folder, and at Slurm's queue."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from data_prep.errors import UserError
from data_prep.files import is_locked
from jobs.engine.decision import Cause, Reason
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.run_folder import LOCK
from jobs.engine.stage import Ref, Stage
from jobs.engine.submissions import Submission
from slurm.commands import array_of


@dataclass(frozen=True)
class ItemState:
    """State of an item: that of its marker, or ``running``, ``waiting`` or ``stopped``; ``seconds``: that it took."""

    state: str
    note: str
    seconds: float | None = None


@dataclass(frozen=True)
class QueueState:
    """State of the newest jobs of an item: ``running``, ``waiting``, ``failed`` or ``done``.

    It is empty if Slurm forgot them. ``submission``: of these jobs.
    """

    state: str
    note: str
    submission: Submission

    @property
    def is_live(self) -> bool:
        """Whether something of it is in the queue."""
        return self.state in ("running", "waiting")

    def has_recorded(self, marker: Marker) -> bool:
        """Whether one of these jobs wrote the marker."""
        return array_of(marker.job) in self.submission.jobs


@dataclass(frozen=True)
class _Files:
    """What the run folder holds of an item; ``change``: why one that was done is done again, empty if it is not."""

    marker: Marker | None
    progress: dict[str, Any] | None
    is_running: bool
    change: str = ""

    @property
    def position(self) -> str:
        """How far it is."""
        return f"{self.progress['done']}/{self.progress['total']} {self.progress['note']}" if self.progress else ""


def item_states(graph: Graph, queue: Mapping[Ref, QueueState]) -> dict[Ref, ItemState]:
    """Return the state of each item of each stage; ``queue``: of the items whose jobs Slurm knows."""
    states = dict[Ref, ItemState]()
    idle = "for its turn" if _is_at_work(graph) else "for the next run"
    is_searched = all(stage.is_searched() for stage in graph.stages.values())
    for stage in graph.stages.values():
        names = stage.markers.names()
        for item in stage.items():
            files, queued = _read_files(stage, item, names), queue.get((stage.name, item))
            if is_searched:  # else it is not known what is there now
                files = replace(files, change=_find_change(graph, stage, item, files.marker, states))
            if files.change and queued and not queued.is_live:
                queued = None  # these jobs ended, before the change
            states[stage.name, item] = (
                _state_by_marker(stage, files, queued) or _state_in_queue(stage, files, queued)
                or _state_at_rest(stage, item, files, states, idle)
            )  # fmt: skip
    return states


def _read_files(stage: Stage, item: str, names: set[str]) -> _Files:
    """Read the files of an item that are there; whether it is running is asked only if it has no marker."""
    marker = stage.markers.read(item) if f"{item}.json" in names else None
    progress = stage.markers.read_progress(item) if f"{item}.progress" in names else None
    return _Files(marker, progress, f"{item}.lock" in names and not marker and stage.markers.is_running(item))


def _find_change(graph: Graph, stage: Stage, item: str, marker: Marker | None, states: Mapping[Ref, ItemState]) -> str:
    """Say why an item that was done is done again, as far as it is known without a look at its outputs."""
    if marker is None or marker.state != "done":
        return ""
    source = next((ref for ref in stage.inputs(item) if ref in states and states[ref].state in _NOT_ENDED), None)
    if source:
        return str(Reason(Cause.INPUT_RUNS_FIRST, ("/".join(source),)))
    with suppress(UserError):  # the file of a donor may be out of reach, of which the next run tells
        return str(graph.find_change(stage, item, marker) or "")
    return ""


def _state_by_marker(stage: Stage, files: _Files, queued: QueueState | None) -> ItemState | None:
    """Return how the item ended, unless a job in the queue does it again.

    A task of an array that did an item well ends badly by another item.
    """
    marker = files.marker
    if marker is None or files.change or (queued and queued.is_live and _is_done_again(stage, marker, queued)):
        return None
    is_anothers = marker.state == "done" and not stage.uses_ranks and queued is not None and queued.state == "failed"
    note = "" if queued is None or queued.is_live or is_anothers else queued.note
    return ItemState(marker.state, "; ".join(filter(None, (marker.reason, note))), marker.seconds)


def _is_done_again(stage: Stage, marker: Marker, queued: QueueState) -> bool:
    if stage.uses_ranks and not stage.shares_job:
        return True
    return marker.state != "done" and not queued.has_recorded(marker)


def _state_in_queue(stage: Stage, files: _Files, queued: QueueState | None) -> ItemState | None:
    """Return the state of an item that is running, or whose jobs are in the queue or ended badly."""
    if files.is_running:
        place = queued.note if queued and queued.state == "running" else ""  # else another job of it waits
        return ItemState("running", " ".join(filter(None, (files.position, place))))
    if queued is None or queued.state not in ("running", "waiting", "failed"):
        return None
    if queued.state == "running" and (stage.shares_job or not stage.uses_ranks):
        return ItemState("waiting", f"for its turn in job {', '.join(queued.submission.jobs)}{_end_before(files)}")
    if queued.state == "running":
        return ItemState("running", f"starting {queued.note}")
    return ItemState(queued.state, queued.note + _end_before(files))


def _end_before(files: _Files) -> str:
    if files.change:
        return f"; {files.change}"
    return f"; {files.marker.state} before: {files.marker.reason}" if files.marker and files.marker.reason else ""


def _is_at_work(graph: Graph) -> bool:
    """Whether a process is at work in the run folder."""
    return any(is_locked(root / LOCK) for root in {stage.folder.root for stage in graph.stages.values()})


def _state_at_rest(stage: Stage, item: str, files: _Files, states: Mapping[Ref, ItemState], idle: str) -> ItemState:
    """Return the state of an item that nobody does now; ``idle``: note of one that waits for nothing else."""
    if files.position:
        return ItemState("stopped", f"at {files.position}")
    needed = stage.needs(item)
    source = next((ref for ref in stage.inputs(item) if ref in states
                   and states[ref].state in (_NOT_DONE if ref in needed else _NOT_ENDED)), None)  # fmt: skip
    if source:
        return ItemState("waiting", f"for {'/'.join(source)}")
    return ItemState("waiting", f"{idle}: {files.change}" if files.change else idle)


_NOT_ENDED = ("waiting", "running", "stopped")
_NOT_DONE = (*_NOT_ENDED, "failed", "refused")
