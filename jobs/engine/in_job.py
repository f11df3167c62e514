"""What runs inside a job of Slurm: a rank of a training, a share of a stage's items, or the look for scans."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

from data_prep.progress import ignore_progress
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.launch import orders
from jobs.engine.marker import Marker
from jobs.engine.run import check_stage
from jobs.engine.stage import Stage
from jobs.engine.submissions import Submissions
from jobs.engine.worker import work_alone, work_together
from pipeline.training.stopping import SIGNALS, Stopped
from pipeline.training.world import World
from slurm.commands import SlurmError
from slurm.job import await_end, forget_half_result, meeting_point, process, requeue, restarts, share
from slurm.states import job_states

_LOOK_SECONDS = 0.5  # between looks for a marker
_VISIBLE_SECONDS = 60.0  # until what another node wrote is seen here: NFS may remember a folder for so long


def find_items(open_graph: OpenGraph, root: Path) -> None:
    """Search for the items that are found by a search, for all jobs that come after."""
    for stage in open_graph(root).stages.values():
        if stage.uses_search:
            print(stage.find_items(ignore_progress), flush=True)


def run_share(open_graph: OpenGraph, root: Path, stage_name: str, most_restarts: int) -> None:
    """Do items of a stage beside the other tasks of this array."""
    worker, workers = share()
    with _stoppable(World(), most_restarts):
        graph = open_graph(root)
        stage = graph.stages[stage_name]
        _await_inputs(graph, stage, stage.items())
        pending = [decision.ref[1] for decision in graph.decide(stage, set()) if decision.run]
        if pending:
            work_alone(open_graph, root, stage_name, orders(pending, workers)[worker])
        _end_as_marked(stage, pending)


def run_rank(open_graph: OpenGraph, root: Path, stage_name: str, item: str, most_restarts: int) -> None:
    """Do one item as one rank of the job."""
    rank, size, local_rank = process()
    world = World(rank, size, local_rank, meeting_point() if size > 1 else "")
    with _stoppable(world, most_restarts):
        _join_in(open_graph, root, stage_name, item, world)


def run_in_turn(open_graph: OpenGraph, root: Path, stage_name: str, items: Sequence[str], most_restarts: int) -> None:
    """Do one item after the other in the same job, each by as many of its first ranks as it is for."""
    rank, size, local_rank = process()
    stage, began = open_graph(root).stages[stage_name], time.time()
    with _stoppable(World(rank, size), most_restarts):
        for number, item in enumerate(items):
            ranks = stage.ranks(item)
            if rank < ranks:
                world = World(rank, ranks, local_rank, meeting_point(number) if ranks > 1 else "")
                _in_a_process(_join_in, open_graph, root, stage_name, item, world)
            if rank == 0 and stage.markers.read(item) is None:
                _mark_dead(stage, item)
            while not _ended(stage, item, began):
                time.sleep(_LOOK_SECONDS)


def _ended(stage: Stage, item: str, since: float) -> bool:
    """Whether it is done, or ended in this life of the job."""
    marker = stage.markers.read(item)
    return marker is not None and (marker.state == "done" or marker.finished >= since)


def _in_a_process(call: Callable[..., None], *arguments: object) -> None:
    """Call in a process of its own, which may fail for itself alone; wait for it also when asked to stop."""
    child = get_context("spawn").Process(target=call, args=arguments)
    child.start()
    try:
        child.join()
    finally:
        child.join()


def _join_in(open_graph: OpenGraph, root: Path, stage_name: str, item: str, world: World) -> None:
    """Do an item as one rank, if it is to be done."""
    graph = open_graph(root)
    stage = graph.stages[stage_name]
    _await_inputs(graph, stage, [item])
    decision = graph.decide_one(stage, item)
    if not decision.run:
        if decision.why != "done":
            sys.exit(f"{stage_name}/{item}: {decision.why}")
        return
    if world.leads:  # any rank that fails from now on says so; what stood there is of an earlier life of the job
        stage.markers.remove(item)
    work_together(open_graph, root, stage_name, item, world)


def _await_inputs(graph: Graph, stage: Stage, items: Sequence[str]) -> None:
    """Wait until what the items read is seen here; mark what died, as their jobs have ended.

    Raises:
        RunFailed: too much of a stage before this one did not succeed.
    """
    refs = {ref for item in items for ref in stage.inputs(item)}
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while (missing := [ref for ref in refs if graph.marker(ref) is None]) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    for ref in missing:
        _mark_dead(graph.stages[ref[0]], ref[1])
    if not stage.concludes:
        for name in sorted({name for name, _ in refs}):
            check_stage(graph.stages[name])


def _mark_dead(stage: Stage, item: str) -> None:
    """Say of an item whose job ended without a word what Slurm knows of it."""
    root = stage.folder.root
    made = [one for one in Submissions(root).all() if one.stage == stage.name and item in one.items]
    try:
        states = job_states([job for one in made[-1:] for job in one.jobs])
    except SlurmError as error:
        states = {}
        print(error, flush=True)
    if stage.markers.read(item):
        return
    told = ", ".join(f"job {one.job} ended as {one.state}" for one in states.values()) or "its job ended"
    stage.markers.write(item, Marker("failed", {}, time.time(), 0.0, f"{told} before it was done; see the logs", {}))
    stage.markers.clear_progress(item)


def _end_as_marked(stage: Stage, items: Sequence[str]) -> None:
    """End this process badly if one of the items did, so that Slurm knows."""
    bad = [item for item in items if (marker := stage.markers.read(item)) and marker.state != "done"]
    if bad:
        sys.exit(f"{stage.name}: {', '.join(bad)} did not succeed")


@contextmanager
def _stoppable(world: World, most_restarts: int) -> Iterator[None]:
    """Go back to the queue when asked to stop by SIGUSR2: before the time limit, or where this job is preempted.

    SIGTERM is of a user who cancels, or of a preemption after which Slurm itself puts the job back.
    """
    forget_half_result()
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        yield
    except Stopped as stopped:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        print(f"{stopped}; this is restart {restarts()} of at most {most_restarts}", flush=True)
        if stopped.number == signal.SIGTERM:
            await_end()
        if restarts() >= most_restarts:
            raise
        requeue(leads=world.leads)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(f"this job was asked to stop by {signal.Signals(number).name}", number)
