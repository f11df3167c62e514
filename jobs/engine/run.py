"""The run of a graph: stage after stage, only what is missing or changed, with progress."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from data_prep.errors import UserError
from data_prep.log import logger
from jobs.engine.decision import Cause, Decision
from jobs.engine.display import Display
from jobs.engine.graph import Graph
from jobs.engine.launch import Launcher, Processes
from jobs.engine.outcome import RunFailed, list_failures
from jobs.engine.stage import Stage

_END_SECONDS = 4.0


def run_graph(graph: Graph, launcher: Launcher, display: Display) -> tuple[int, list[str]]:
    """Bring every stage up to date; return how many items were run, and a line for each that failed.

    Raises:
        UserError: more scans were turned away than the settings tolerate, or a setting does not fit.
        RunFailed: a stage failed without which there can be no report.
    """
    count, failures = 0, list[str]()
    for stage in graph.stages.values():
        pending = _decide_pending(graph, stage)
        for decision in pending:
            logger.info(f"{'/'.join(decision.ref)}: {decision.reason}")
        count += len(pending)
        try:
            run_stage(stage, [decision.ref[1] for decision in pending], launcher, display)
            failures += list_failures(stage)
        except (UserError, RunFailed):
            with suppress(RunFailed):  # what failed first is told
                _conclude(graph, stage, launcher, display)
            raise
    return count, failures


def _conclude(graph: Graph, failed: Stage, launcher: Launcher, display: Display) -> None:
    """Run the stage that shows what became of the items of one of which too many ended without success."""
    if failed.concludes:  # what comes after it has nothing to show
        return
    stages = list(graph.stages.values())
    following = stages[stages.index(failed) + 1 :]
    stage = next((stage for stage in following if stage.concludes and stage.gathers in ("", failed.name)), None)
    if stage:
        run_stage(stage, [decision.ref[1] for decision in _decide_pending(graph, stage)], launcher, display)


def _decide_pending(graph: Graph, stage: Stage) -> list[Decision]:
    """Decide which items run, those that failed before last; first wait for items that an earlier run still does."""
    for item in stage.items():
        if stage.markers.is_running(item):
            logger.info(f"{stage.name}/{item}: a process of an earlier run is at it, waiting for its end")
        while stage.markers.is_running(item):
            time.sleep(1)
    pending = [decision for decision in graph.decide(stage) if decision.run]
    return sorted(pending, key=lambda decision: decision.reason.cause is Cause.FAILED)


def run_stage(stage: Stage, items: Sequence[str], launcher: Launcher, display: Display) -> None:
    """Run items of a stage to their end, with progress; how each ended is in its marker.

    Raises:
        RunFailed: processes died before they came to an item.
    """
    root = stage.folder.root
    if stage.uses_ranks:
        for item in stage.start_order(items):
            start_ranks = partial(launcher.start_ranks, root, stage.name, item, stage.ranks(item))
            _run_group(stage, [item], start_ranks, display)
        return
    pending, before, fault = list(items), list[str](), ""
    while pending and pending != before:  # again without the items that a worker died of
        before = pending
        start_workers = partial(launcher.start_workers, root, stage.name, before, min(stage.workers(), len(before)))
        pending, fault = _run_group(stage, before, start_workers, display)
    if pending and fault:
        raise RunFailed(f"{stage.name}/{pending[0]} was not run: {fault}; see {root / 'logs'}")


def _run_group(
    stage: Stage, items: list[str], launch: Callable[[], Processes], display: Display
) -> tuple[list[str], str]:
    """Follow processes to their end; return the items that none of them came to, and why the first of them died."""
    for item in items:
        stage.markers.clear_progress(item)
        if stage.uses_ranks:
            stage.markers.remove(item)
    start, before = time.monotonic(), {item: stage.markers.read(item) for item in items}
    processes = launch()
    _follow(stage, items, processes, display)
    for item in items:
        _mark_if_dead(stage, item, start, processes)
    ended = [item for item in items if stage.markers.read(item) not in (None, before[item])]
    display.finish(stage, ended)
    return [item for item in items if item not in ended], processes.fault()


def _follow(stage: Stage, items: list[str], processes: Processes, display: Display) -> None:
    """Show progress until all processes have ended; end those of an item of which one rank failed."""
    try:
        while not processes.have_ended():
            display.update(stage, items)
            if stage.uses_ranks and _has_failed(stage, items[0]):
                _end(processes)
    except BaseException:
        processes.stop()
        raise


def _has_failed(stage: Stage, item: str) -> bool:
    marker = stage.markers.read(item)
    return marker is not None and marker.state != "done"


def _end(processes: Processes) -> None:
    """Give processes whose item has failed a moment to end by themselves; one that is stopped or hangs will not."""
    deadline = time.monotonic() + _END_SECONDS
    while not processes.have_ended():
        if time.monotonic() > deadline:
            processes.stop()
            deadline = math.inf


def _mark_if_dead(stage: Stage, item: str, start: float, processes: Processes) -> None:
    """Mark an item as failed if its process died before it could, as it was killed or ran out of memory."""
    has_started = stage.uses_ranks or stage.markers.read_progress(item) is not None
    if has_started and stage.markers.read(item) is None:
        reason = f"{processes.fault() or 'its process ended early'}; see {stage.folder.root / 'logs'}"
        stage.markers.write_death(item, reason, time.monotonic() - start)
