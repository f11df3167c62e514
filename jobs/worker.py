"""A worker process: it does items of one stage, alone or as one rank of several."""

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import digest_json, locked
from data_prep.progress import Progress
from jobs.graph import graph_of
from jobs.marker import Marker
from jobs.run_folder import RunFolder
from jobs.stage import Graph, Stage
from pipeline.training.world import World

_EVERY_SECONDS = 0.5


def work_alone(root: Path, stage: str, items: Sequence[str]) -> None:
    """Do the items one after the other; one that ends badly is marked so and the next is done."""
    graph = graph_of(RunFolder.opened(root))
    for item in items:
        _run_marked(graph, graph.stages[stage], item, World())


def work_together(root: Path, stage: str, item: str, world: World) -> None:
    """Do one item as one rank of several.

    Raises:
        Exception: what went wrong in this rank, after marking it, so that the other ranks are ended.
    """
    graph = graph_of(RunFolder.opened(root))
    error = _run_marked(graph, graph.stages[stage], item, world)
    if error:
        raise error


def _run_marked(graph: Graph, stage: Stage, item: str, world: World) -> Exception | None:
    if not world.leads:
        return _run_rank(graph, stage, item, world)
    with locked(stage.markers.lock(item)):
        if world.size == 1 and not graph.decide_one(stage, item).run:
            return None  # another run has done it meanwhile
        parts = graph.parts(stage, item)
        if stage.markers.begin(item, digest_json(parts)):
            stage.discard(item)
        stage.markers.remove(item)
        return _run_rank(graph, stage, item, world)


def _run_rank(graph: Graph, stage: Stage, item: str, world: World) -> Exception | None:
    parts, began, error = graph.parts(stage, item), time.time(), None
    print(f"{stage.name}/{item}: started as rank {world.rank} of {world.size}", flush=True)
    try:
        result = stage.run(item, world, _reporter(stage, item, world))
        ended = Marker("done", parts, time.time(), time.time() - began, "", result)
    except Exception as caught:
        traceback.print_exc()
        error, state = caught, "refused" if isinstance(caught, UserError) else "failed"
        reason = str(caught) if state == "refused" else f"{type(caught).__name__}: {caught}"
        ended = Marker(state, parts, time.time(), time.time() - began, reason, {})  # type: ignore[arg-type]
    if world.leads or (error and stage.markers.read(item) is None):  # the first rank to fail says why
        stage.markers.write(item, ended)
        stage.markers.clear_progress(item)
    print(f"{stage.name}/{item}: {ended.state} {ended.reason}", flush=True)
    return error


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
