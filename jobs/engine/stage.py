"""A stage: items that are done one by one, each marked when it is complete."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.engine.marker import Marker, Markers
from jobs.engine.run_folder import RunFolder
from pipeline.training.world import World

Ref = tuple[str, str]
"""A stage's name and one of its items."""


class Stage(ABC):
    """One step of the way from scans to report. Heavy imports belong inside :meth:`run`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    own_job: ClassVar[bool] = False
    """Whether each item is a job of its own ranks; else workers share the items."""
    in_one_job: bool = False
    """Whether items with ranks of their own share one job, one after the other."""
    any_input: ClassVar[bool] = False
    """Whether an item runs although some of its inputs failed."""
    uses_gpu: ClassVar[bool] = False
    """Whether workers use a GPU where there is one."""
    concludes: ClassVar[bool] = False
    """Whether it tells what became of the run, however it went."""
    private: ClassVar[bool] = False
    """Whether an error's text could hold names of patients or of their files, and must not be written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.settings = folder, folder.settings
        self.markers = Markers(folder.root, self.name)

    def find_items(self, progress: Progress) -> None:  # noqa: B027 - most stages know theirs
        """Look for the items, where that takes long."""

    @abstractmethod
    def items(self) -> list[str]:
        """Names of the items, fit for file names."""

    def in_turn(self, items: Sequence[str]) -> Sequence[str]:
        """The items in the order in which they should be begun."""
        return items

    @abstractmethod
    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Do one item; called in every rank of ``world``. Returns what its marker should hold."""

    def reads(self, item: str) -> Mapping[str, Any]:
        """Settings and other plain values that the item depends on."""
        return {}

    def inputs(self, item: str) -> list[Ref]:
        """Items of earlier stages that the item depends on."""
        return []

    def outputs(self, item: str) -> list[Path]:
        """Files or folders that exist when the item is complete."""
        return []

    def discard(self, item: str) -> None:  # noqa: B027 - most stages keep nothing of an unfinished item
        """Drop what was begun of the item, because it now depends on other things."""

    def ranks(self, item: str) -> int:
        """Processes that do the item together."""
        return 1

    def workers(self) -> int:
        """Processes that share the items."""
        return 1

    def place(self, item: str) -> str:
        """Where the item's input lies, for the terminal alone: it may hold a patient's name."""
        return f"{self.name}/{item}"

    def tolerated(self) -> float:
        """Share of items that may end without success before the run stops."""
        return 0.0


@dataclass(frozen=True)
class Decision:
    """Whether an item is to be run, and why, or why not."""

    ref: Ref
    run: bool
    why: str


class Graph:
    """Stages in order, and what is still to be done."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = {stage.name: stage for stage in stages}

    def marker(self, ref: Ref) -> Marker | None:
        """What became of an item."""
        return self.stages[ref[0]].markers.read(ref[1])

    def decide_all(self) -> list[Decision]:
        """A decision for each item of each stage, as the disk is now."""
        decisions: list[Decision] = []
        waiting: set[Ref] = set()
        for stage in self.stages.values():
            for decision in self.decide(stage, waiting):
                decisions.append(decision)
                if decision.run:
                    waiting.add(decision.ref)
        return decisions

    def decide(self, stage: Stage, waiting: set[Ref]) -> list[Decision]:
        """Decisions for one stage, when the items in ``waiting`` are still to be run."""
        return [self.decide_one(stage, item, waiting) for item in stage.items()]

    def decide_one(self, stage: Stage, item: str, waiting: Collection[Ref] = ()) -> Decision:
        """The decision for one item."""
        ref, marker = (stage.name, item), stage.markers.read(item)
        first = next((other for other in stage.inputs(item) if other in waiting), None)
        if first:
            return Decision(ref, True, f"{'/'.join(first)} runs first")
        blocked = self.blocked_by(stage, item)
        if blocked:
            return Decision(ref, False, f"blocked: {'/'.join(blocked)} did not succeed")
        why = self._why_again(stage, item, marker)
        return Decision(ref, bool(why), why or (marker.state if marker else ""))

    def blocked_by(self, stage: Stage, item: str) -> Ref | None:
        """An input that is not done, where the stage needs all of them."""
        if stage.any_input:
            return None
        for name, other in stage.inputs(item):
            marker = self.marker((name, other))
            if marker is None or marker.state != "done":
                return name, other
        return None

    def _why_again(self, stage: Stage, item: str, marker: Marker | None) -> str:
        if marker is None:
            return "not finished before" if stage.markers.progress(item) else "never run"
        if marker.state == "failed":
            return f"failed before: {marker.reason}"
        changed = _first_change(marker.parts, self.parts(stage, item))
        if changed:
            return changed
        if marker.state == "done":
            missing = next((path for path in stage.outputs(item) if not path.exists()), None)
            return f"{missing.relative_to(stage.folder.root)} is missing" if missing else ""
        return ""

    def parts(self, stage: Stage, item: str) -> dict[str, Any]:
        """All that the item depends on; equal parts mean that nothing changed."""
        inputs = {"/".join(ref): self._stamp(ref) for ref in stage.inputs(item)}
        return {"version": stage.version, "settings": dict(stage.reads(item)), "inputs": inputs}

    def _stamp(self, ref: Ref) -> str:
        marker = self.marker(ref)
        return f"{marker.state} {marker.finished}" if marker else "absent"


def _first_change(old: Any, new: Any, place: str = "") -> str:
    """The first difference of two trees, in words, or nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            change = _first_change(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
            if change:
                return change
        return ""
    if _plain(old) == _plain(new):
        return ""
    if place.startswith("inputs."):
        return f"{place.removeprefix('inputs.')} was made again"
    return f"{place.removeprefix('settings.')} changed from {_short(old)} to {_short(new)}"


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
