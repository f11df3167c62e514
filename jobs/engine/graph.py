"""The graph of a run's stages: which of their items are to be run, and why."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from jobs.engine.decision import Cause, Decision, Reason, first_change
from jobs.engine.marker import Marker
from jobs.engine.outputs import first_fault
from jobs.engine.stage import Ref, Stage


class Graph:
    """Stages in the order in which they run. Decisions follow from the markers and outputs on disk."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = {stage.name: stage for stage in stages}

    def marker(self, ref: Ref) -> Marker | None:
        """Read the marker of an item of any stage."""
        stage, item = ref
        return self.stages[stage].markers.read(item)

    def is_done(self, ref: Ref) -> bool:
        """Whether an item of any stage was completed, as far as its marker says."""
        stage, item = ref
        return self.stages[stage].markers.is_done(item)

    def is_current(self, ref: Ref) -> bool:
        """Whether an item was completed, by any version, with the settings and inputs that there are now."""
        stage, item = self.stages[ref[0]], ref[1]
        marker = self.marker(ref)
        return marker is not None and marker.state == "done" and self.find_change(stage, item, marker) is None

    def find_change(self, stage: Stage, item: str, marker: Marker) -> Reason | None:
        """Find the first setting or input that differs from those of a marker, which may be of any version."""
        return first_change({**marker.parts, "version": stage.version}, self.parts(stage, item))

    def decide_all(self) -> list[Decision]:
        """Decide for each item of each stage, in the order in which they would run."""
        decisions: list[Decision] = []
        pending: set[Ref] = set()
        for stage in self.stages.values():
            for decision in self.decide(stage, pending):
                decisions.append(decision)
                if decision.run:
                    pending.add(decision.ref)
        return decisions

    def decide(self, stage: Stage, pending: Collection[Ref] = ()) -> list[Decision]:
        """Decide for each item of a stage; ``pending``: items of earlier stages that are still to be run."""
        return [self.decide_item(stage, item, pending) for item in stage.items()]

    def decide_item(self, stage: Stage, item: str, pending: Collection[Ref] = ()) -> Decision:
        """Decide for one item; ``pending`` as in :meth:`decide`."""
        return Decision((stage.name, item), self._reason(stage, item, pending))

    def _reason(self, stage: Stage, item: str, pending: Collection[Ref]) -> Reason:
        marker = stage.markers.read(item)  # before those of the inputs, which may change meanwhile
        first = next((ref for ref in stage.inputs(item) if ref in pending), None)
        if first:
            return Reason(Cause.INPUT_RUNS_FIRST, ("/".join(first),))
        blocker = self.blocked_by(stage, item)
        if blocker:
            return Reason(Cause.BLOCKED, ("/".join(blocker),))
        if marker is None:
            return Reason(Cause.UNFINISHED if stage.markers.read_progress(item) else Cause.NEVER_RUN)
        return self._reason_by_marker(stage, item, marker)

    def _reason_by_marker(self, stage: Stage, item: str, marker: Marker) -> Reason:
        if marker.state == "failed":
            return Reason(Cause.FAILED, (marker.reason,))
        change = first_change(marker.parts, self.parts(stage, item))
        if change:
            return change
        if marker.state == "refused":
            return Reason(Cause.REFUSED) if stage.keeps_refusals else Reason(Cause.REFUSED_BEFORE, (marker.reason,))
        return first_fault(stage, item, marker) or Reason(Cause.DONE)

    def blocked_by(self, stage: Stage, item: str) -> Ref | None:
        """Return the first input that the item needs and that is not done; None without such."""
        return next((ref for ref in stage.needs(item) if not self.is_done(ref)), None)

    def parts(self, stage: Stage, item: str) -> dict[str, Any]:
        """Collect all that the item depends on, for its marker; equal parts mean that nothing changed.

        An input has the name of its record, which is the same whichever stage does it.
        """
        inputs = {self._record(ref): self._stamp(ref) for ref in stage.inputs(item)}
        return {"version": stage.version, "settings": dict(stage.reads(item)), "inputs": inputs}

    def _record(self, ref: Ref) -> str:
        stage, item = ref
        return f"{self.stages[stage].markers.folder_of(item).name}/{item}"

    def _stamp(self, ref: Ref) -> str:
        marker = self.marker(ref)
        return marker.stamp if marker else "absent"


OpenGraph = Callable[[Path], Graph]
"""Opens the graph of the run in a folder; a function of a module, so that worker processes can import it by name."""
