"""The graph of a run's stages: which items are to be run, and why."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.engine.marker import Marker
from jobs.engine.stage import Ref, Stage


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


OpenGraph = Callable[[Path], Graph]
"""Opens the graph of the run in a folder; a function of a module, so that worker processes can import it by name."""


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
