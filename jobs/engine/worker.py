"""A worker process: it does items of one stage, each alone or as one rank of several."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from data_prep.errors import MachineError, UserError, describe_lack_of_memory, describe_os_error
from data_prep.files import digest_json, locked
from data_prep.log import logger
from data_prep.progress import Progress
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.leftovers import remove_leftovers_of
from jobs.engine.marker import STOPPED, Marker, State
from jobs.engine.outcome import RunFailed
from jobs.engine.outputs import check_outputs, digest_outputs
from jobs.engine.stage import Stage
from pipeline.training.errors import CheckpointError, TrainingError
from pipeline.training.stopping import Stopped
from pipeline.training.world import DistributionError, PeerLost, World

PEER_LOST = "ended because it lost another rank"
"""Stands in the log of each rank that failed only because another one did."""
_REPORT_SECONDS = 0.5
_GRACE_SECONDS = 2.0
Failure = Exception | Stopped
_PLAIN = (UserError, MachineError, RunFailed, DistributionError, TrainingError, CheckpointError, Stopped)


def work_alone(open_graph: OpenGraph, root: Path, stage_name: str, items: Sequence[str]) -> None:
    """Do items one after the other, except those that another worker does or has done; a failure is only marked."""
    graph = open_graph(root)
    stage = graph.stages[stage_name]
    before = {item: stage.markers.read(item) for item in items}
    for item in items:
        if not stage.markers.is_running(item) and stage.markers.read(item) in (None, before[item]):
            with _discreet(stage):
                _run_locked(graph, stage, item, World())


@contextmanager
def _discreet(stage: Stage) -> Iterator[None]:
    """Hide the text of an error outside of an item's ``run`` from the parent process, if the stage is private."""
    try:
        yield
    except Exception as error:
        if not stage.private:
            raise
        raise RuntimeError(_describe(stage, error)) from None


def work_together(open_graph: OpenGraph, root: Path, stage_name: str, item: str, world: World) -> None:
    """Do one item as one rank of several.

    Raises:
        Exception: what went wrong in this rank, after marking it, so that the other ranks are ended.
    """
    graph = open_graph(root)
    error = _run_locked(graph, graph.stages[stage_name], item, world)
    if error:
        raise error


def _run_locked(graph: Graph, stage: Stage, item: str, world: World) -> Failure | None:
    """Run the item, in rank 0 under its lock; return the error that its marker tells of."""
    if not world.leads:
        return _run_marked(graph, stage, item, world, graph.parts(stage, item))
    with locked(stage.markers.lock(item)):
        remove_leftovers_of(stage, item)
        if world.size == 1 and not graph.decide_item(stage, item).run:
            return None  # another run has done it meanwhile
        parts = graph.parts(stage, item)
        _start(stage, item, digest_json(parts), world)
        return _run_marked(graph, stage, item, world, parts)


def _start(stage: Stage, item: str, digest: str, world: World) -> None:
    """Discard what was left of other parts, and only then record the new ones, as either may be cut off."""
    if stage.markers.read_start(item) not in (None, digest):
        stage.discard(item)
    stage.markers.write_start(item, digest, world.rendezvous)
    if not stage.uses_ranks:  # else the launcher of the ranks did it: any of them may fail before rank 0 comes here
        stage.markers.remove(item)


def _run_marked(graph: Graph, stage: Stage, item: str, world: World, parts: dict[str, Any]) -> Failure | None:
    start = time.monotonic()
    logger.info(f"{stage.name}/{item}: started as rank {world.rank} of {world.size}")

    def fail(error: Failure) -> None:
        _log_error(stage, error)
        result = STOPPED if isinstance(error, Stopped) else {}
        marker = Marker(_state(error), parts, time.time(), time.monotonic() - start, _reason(stage, error), result)
        _mark_failure(stage, item, error, marker, world)

    try:
        check_outputs((graph.stages[name], source) for name, source in stage.inputs(item))
        summary = stage.run(item, replace(world, on_peer_lost=fail), _reporter(stage, item, world))
    except (Exception, Stopped) as error:
        if isinstance(error, Stopped) and not stage.uses_ranks:
            raise  # the worker was asked, not the item
        fail(error)
        return error
    finally:
        if world.leads:
            stage.markers.clear_progress(item)
    if world.leads:
        outputs = digest_outputs(stage, item)
        product = digest_json(stage.product(summary, outputs))
        seconds = time.monotonic() - start
        stage.markers.write(item, Marker("done", parts, time.time(), seconds, "", summary, outputs, product))
    logger.info(f"{stage.name}/{item}: done")
    return None


def _state(error: Failure) -> State:
    return "refused" if isinstance(error, UserError) else "failed"


def _reason(stage: Stage, error: Failure) -> str:
    return str(error) if _is_plain(error) else _describe(stage, error)


def _is_plain(error: Failure) -> bool:
    """Whether the error's text is a sentence for people, without private words."""
    return isinstance(error, _PLAIN)


def _log_error(stage: Stage, error: Failure) -> None:
    """Log the sentence of a plain error; of others the trace, without its texts where the stage is private."""
    if isinstance(error, PeerLost):
        logger.error(PEER_LOST)
    if _is_plain(error):
        logger.error(error)
    elif stage.private:
        logger.error("".join(traceback.format_tb(error.__traceback__)) + _describe(stage, error))
    else:
        traceback.print_exception(error)


def _describe(stage: Stage, error: Failure) -> str:
    """Say what went wrong in words for people; without the error's own words where they may hold patients' names."""
    if isinstance(error, OSError):
        return describe_os_error(error, names_file=not stage.private or _names_no_patient(stage, error))
    if lack := describe_lack_of_memory(error):
        return lack
    last = traceback.extract_tb(error.__traceback__)[-1]
    origin = f"a fault of quarterdose in {last.name}, line {last.lineno} of {Path(last.filename).name}"
    return origin if stage.private else f"{origin}: {' '.join(str(error).split())}"


def _names_no_patient(stage: Stage, error: OSError) -> bool:
    """Whether an error is about the temporary folder, or about a file of the run folder."""
    path = error.filename
    return isinstance(path, str) and (path == gettempdir() or Path(path).is_relative_to(stage.folder.root))


def _mark_failure(stage: Stage, item: str, error: Failure, marker: Marker, world: World) -> None:
    """Mark the item at once; a rank that did not meet or lost another waits first, as that one may know the reason.

    An item that ranks of another start are at is theirs, and is not marked.
    """
    if isinstance(error, DistributionError):
        time.sleep(_GRACE_SECONDS)
    if stage.markers.read(item) is None and not stage.markers.is_run_by_others(item, world.rendezvous):
        stage.markers.write(item, marker)


def _reporter(stage: Stage, item: str, world: World) -> Progress:
    """Return a callback that writes the progress of rank 0: at most two lines a second, and always the last one."""
    last = 0.0

    def report(completed: int, total: int, note: str) -> None:
        nonlocal last
        if world.leads and (completed == total or time.monotonic() - last >= _REPORT_SECONDS):
            last = time.monotonic()
            stage.markers.write_progress(item, completed, total, note)
            logger.info(f"{stage.name}/{item}: {completed}/{total} {note}")

    report(0, 1, "starting")
    return report
