"""The run: stage after stage, only what is missing or changed, with progress."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from data_prep.errors import UserError
from jobs.engine.display import Display
from jobs.engine.graph import Decision, Graph
from jobs.engine.launch import Launched, Launcher
from jobs.engine.marker import Marker
from jobs.engine.stage import Stage

_END_SECONDS = 4.0


class RunFailed(RuntimeError):
    """Items failed for a reason that is not the user's data or settings."""


def run_graph(graph: Graph, launcher: Launcher, display: Display) -> tuple[int, list[str]]:
    """Bring every stage up to date; return how many items were run, and what is said of those that failed.

    Raises:
        UserError: more scans were turned away than the settings tolerate, or a setting does not fit.
        RunFailed: a stage failed without which there can be no report.
    """
    count, failed = 0, []
    for stage in graph.stages.values():
        pending = _pending(graph, stage, display)
        for decision in pending:
            display.say(f"{'/'.join(decision.ref)}: {decision.why}")
        _run_stage(stage, [d.ref[1] for d in pending], launcher, display)
        count += len(pending)
        failed += _failures(stage)
    return count, failed


def _pending(graph: Graph, stage: Stage, display: Display) -> list[Decision]:
    """What is to be run, the failed last; items that a job of an earlier run still works on are waited for."""
    for item in stage.items():
        if stage.markers.running(item):
            display.say(f"{stage.name}/{item}: a process of an earlier run is at it, waiting for its end")
        while stage.markers.running(item):
            time.sleep(1)
    pending = [decision for decision in graph.decide(stage, set()) if decision.run]
    return sorted(pending, key=lambda decision: decision.why.startswith("failed"))


def _run_stage(stage: Stage, items: Sequence[str], launcher: Launcher, display: Display) -> None:
    root = stage.folder.root
    if stage.own_job:
        for item in stage.in_turn(items):
            together = partial(launcher.together, root, stage.name, item, stage.ranks(item))
            _run_group(stage, [item], together, display)
        return
    left, before = list(items), list[str]()
    while left and left != before:  # again without the items that a worker died of
        before = left
        share = partial(launcher.share, root, stage.name, before, min(stage.workers(), len(before)))
        left = _run_group(stage, before, share, display)


def _run_group(stage: Stage, items: list[str], launch: Callable[[], Launched], display: Display) -> list[str]:
    """Follow processes to their end; return the items that none of them came to."""
    for item in items:
        stage.markers.clear_progress(item)
        if stage.own_job:
            stage.markers.remove(item)
    began, before = time.time(), {item: stage.markers.read(item) for item in items}
    launched = launch()
    try:
        while not launched.ended():
            display.update(stage, items, began)
            if stage.own_job and _failed(stage, items[0]):
                _end(launched)
    except BaseException:
        launched.stop()
        raise
    for item in items:
        _mark_dead(stage, item, began, launched)
    ended = [item for item in items if stage.markers.read(item) not in (None, before[item])]
    display.finish(stage, ended)
    return [item for item in items if item not in ended]


def _failed(stage: Stage, item: str) -> bool:
    marker = stage.markers.read(item)
    return marker is not None and marker.state != "done"


def _end(launched: Launched) -> None:
    """Give processes whose item has failed a moment to end by themselves; one that is stopped or hangs will not."""
    deadline = time.monotonic() + _END_SECONDS
    while not launched.ended():
        if time.monotonic() > deadline:
            launched.stop()
            deadline = math.inf


def _mark_dead(stage: Stage, item: str, began: float, launched: Launched) -> None:
    """Mark an item as failed if its process died before it could, as it was killed or ran out of memory."""
    came = stage.own_job or stage.markers.progress(item) is not None
    if came and stage.markers.read(item) is None:
        reason = f"{launched.fault() or 'its process ended early'}; see {stage.folder.root / 'logs'}"
        stage.markers.write(item, Marker("failed", {}, time.time(), time.time() - began, reason, {}))
        stage.markers.clear_progress(item)


def check_stage(stage: Stage) -> None:
    """See whether the stage can be said to have worked.

    Raises:
        RunFailed: too many of its items ended badly.
    """
    bad, count = _bad(stage), len(stage.items())
    if len(bad) > stage.tolerated() * count:
        raise RunFailed(f"{len(bad)} of {count} items of {stage.name} did not succeed, which is too many to go on")


def _bad(stage: Stage) -> dict[str, Marker | None]:
    """Items that did not succeed."""
    markers = {item: stage.markers.read(item) for item in stage.items()}
    return {item: marker for item, marker in markers.items() if marker is None or marker.state != "done"}


def _failures(stage: Stage) -> list[str]:
    """What went wrong, if the stage can still be said to have worked.

    Raises:
        UserError, RunFailed: too many of its items ended badly.
    """
    bad, count = _bad(stage), len(stage.items())
    told = [
        f"{stage.name}/{item}: {marker.reason}" for item, marker in bad.items() if marker and marker.state == "failed"
    ]
    if len(bad) <= stage.tolerated() * count:
        return told
    refused = [f"{stage.place(item)}: {m.reason}" for item, m in bad.items() if m and m.state == "refused"]
    if refused and len(bad) == 1:
        raise UserError(refused[0])
    if refused:
        raise UserError(f"{len(bad)} of {count} items of {stage.name} were turned away, first {refused[0]}")
    raise RunFailed(told[0] if told else f"{stage.name}/{next(iter(bad))} was not run")
