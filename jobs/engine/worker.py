"""A worker process: it does items of one stage, alone or as one rank of several."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.errors import MachineError, UserError
from data_prep.files import digest_json, locked
from data_prep.progress import Progress
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.marker import Marker, State
from jobs.engine.stage import Stage
from pipeline.training.stopping import Stopped
from pipeline.training.world import DistributionError, PeerLost, World

_EVERY_SECONDS = 0.5
_GRACE_SECONDS = 2.0


def work_alone(open_graph: OpenGraph, root: Path, stage: str, items: Sequence[str]) -> None:
    """Do the items one after the other, but those that another worker does; one that ends badly is marked so."""
    graph, began = open_graph(root), time.time()
    for item in items:
        markers = graph.stages[stage].markers
        marker = markers.read(item)
        if not markers.running(item) and (marker is None or marker.finished < began):
            with _discreet(graph.stages[stage]):
                _run_marked(graph, graph.stages[stage], item, World())


@contextmanager
def _discreet(stage: Stage) -> Iterator[None]:
    """Keep the text of an error outside of an item's own work from whoever started this process, if it is private."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not stage.private:
            raise
        raise RuntimeError(_reason(error, stage.private)) from None


def work_together(open_graph: OpenGraph, root: Path, stage: str, item: str, world: World) -> None:
    """Do one item as one rank of several.

    Raises:
        Exception: what went wrong in this rank, after marking it, so that the other ranks are ended.
    """
    graph = open_graph(root)
    error = _run_marked(graph, graph.stages[stage], item, world)
    if error:
        raise error


def _run_marked(graph: Graph, stage: Stage, item: str, world: World) -> Exception | None:
    if not world.leads:
        return _run_rank(stage, item, world, graph.parts(stage, item))
    with locked(stage.markers.lock(item)):
        if world.size == 1 and not graph.decide_one(stage, item).run:
            return None  # another run has done it meanwhile
        parts = graph.parts(stage, item)
        _begin(stage, item, digest_json(parts))
        return _run_rank(stage, item, world, parts)


def _begin(stage: Stage, item: str, digest: str) -> None:
    """Drop what was begun on other terms, and only then note the new ones, as either may be cut off."""
    if stage.markers.begun(item) not in (None, digest):
        stage.discard(item)
    stage.markers.begin(item, digest)
    if not stage.own_job:  # else whoever starts the ranks did it: any of them may fail before rank 0 comes here
        stage.markers.remove(item)


def _run_rank(stage: Stage, item: str, world: World, parts: dict[str, Any]) -> Exception | None:
    began = time.time()
    print(f"{stage.name}/{item}: started as rank {world.rank} of {world.size}", flush=True)

    def fail(error: Exception) -> None:
        _mark_failure(stage, item, error, _failure(stage, error, parts, began))

    try:
        result = stage.run(item, replace(world, on_peer_lost=fail), _reporter(stage, item, world))
    except Exception as error:
        if isinstance(error, Stopped) and not stage.own_job:
            raise  # the worker was asked, not the item
        fail(error)
        return error
    finally:
        if world.leads:
            stage.markers.clear_progress(item)
    if world.leads:
        stage.markers.write(item, Marker("done", parts, time.time(), time.time() - began, "", result))
    print(f"{stage.name}/{item}: done", flush=True)
    return None


def _failure(stage: Stage, error: Exception, parts: dict[str, Any], began: float) -> Marker:
    """Some errors are their own sentence; of others the trace is printed, without texts where they are private."""
    state: State = "refused" if isinstance(error, UserError) else "failed"
    plain = isinstance(error, UserError | MachineError | DistributionError | Stopped)
    reason = str(error) if plain else _reason(error, stage.private)
    if plain:
        print(reason, flush=True)
    elif stage.private:
        print("".join(traceback.format_tb(error.__traceback__)) + reason, flush=True)
    else:
        traceback.print_exception(error)
    return Marker(state, parts, time.time(), time.time() - began, reason, {})


def _reason(error: Exception, private: bool) -> str:
    kind = type(error).__name__
    if not private:
        return f"{kind}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{kind}: {error.strerror}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{kind} in {last.name}, line {last.lineno} of {Path(last.filename).name}"


def _mark_failure(stage: Stage, item: str, error: Exception, ended: Marker) -> None:
    """The rank that failed says why, at once; one that merely lost another waits whether somebody knows better."""
    if isinstance(error, PeerLost):
        time.sleep(_GRACE_SECONDS)
    if stage.markers.read(item) is None:
        stage.markers.write(item, ended)


def _reporter(stage: Stage, item: str, world: World) -> Progress:
    """Reports of rank 0, at most two a second and the last one always."""
    last = 0.0

    def tell(done: int, total: int, note: str) -> None:
        nonlocal last
        if world.leads and (done == total or time.monotonic() - last >= _EVERY_SECONDS):
            last = time.monotonic()
            stage.markers.report_progress(item, done, total, note)
            print(f"{stage.name}/{item}: {done}/{total} {note}", flush=True)

    tell(0, 1, "starting")
    return tell
