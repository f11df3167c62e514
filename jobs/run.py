"""The run: stage after stage, only what is missing or changed, with progress."""

import time
from collections.abc import Iterator, Sequence

from data_prep.errors import UserError
from jobs.launch import Launched, Launcher
from jobs.marker import Marker
from jobs.show import Display
from jobs.stage import Graph, Stage


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
        pending = [d for d in graph.decide(stage, set()) if d.run]
        for decision in pending:
            display.say(f"{'/'.join(decision.ref)}: {decision.why}")
        _run_stage(stage, [d.ref[1] for d in pending], launcher, display)
        count += len(pending)
        failed += _failures(stage)
    return count, failed


def _run_stage(stage: Stage, items: Sequence[str], launcher: Launcher, display: Display) -> None:
    root = stage.folder.root
    for group, launched in _launches(stage, items, launcher):
        began = time.time()
        try:
            while not launched.ended():
                display.update(stage, group, began)
        except BaseException:
            launched.stop()
            raise
        _mark_dead(stage, group, began, launched.fault(), str(root / "logs"))
        display.update(stage, group, began)
        display.finish(stage, group)


def _launches(stage: Stage, items: Sequence[str], launcher: Launcher) -> Iterator[tuple[Sequence[str], Launched]]:
    root = stage.folder.root
    if stage.own_job:
        for item in items:
            yield [item], launcher.together(root, stage.name, item, stage.ranks(item))
    elif items:
        yield items, launcher.share(root, stage.name, items, min(stage.workers(), len(items)))


def _mark_dead(stage: Stage, items: Sequence[str], began: float, fault: str, logs: str) -> None:
    """Mark the items whose process died before it could, as it was killed or ran out of memory."""
    for item in items:
        marker = stage.markers.read(item)
        if marker is None or marker.finished < began:
            reason = f"{fault or 'its process ended early'}; see {logs}"
            stage.markers.write(item, Marker("failed", {}, time.time(), time.time() - began, reason, {}))


def _failures(stage: Stage) -> list[str]:
    """What went wrong, if the stage can still be said to have worked.

    Raises:
        UserError, RunFailed: too many of its items ended badly.
    """
    markers = {item: stage.markers.read(item) for item in stage.items()}
    bad = {item: marker for item, marker in markers.items() if marker is None or marker.state != "done"}
    told = [
        f"{stage.name}/{item}: {marker.reason}" for item, marker in bad.items() if marker and marker.state == "failed"
    ]
    if len(bad) <= stage.tolerated() * len(markers):
        return told
    refused = [marker.reason for marker in bad.values() if marker and marker.state == "refused"]
    if refused:
        raise UserError(
            refused[0]
            if len(bad) == 1
            else f"{len(bad)} of {len(markers)} items of {stage.name} were turned away, first: {refused[0]}"
        )
    raise RunFailed(told[0] if told else f"{stage.name}/{next(iter(bad))} was not run")
