"""Work inside a job of Slurm: a rank of a training, a share of a stage's items, or the search for items."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

from data_prep.errors import UserError
from data_prep.log import logger
from data_prep.processes import end_with_parent
from data_prep.progress import ignore_progress
from jobs.engine.decision import Cause, Decision
from jobs.engine.follow import describe_end_of, newest_states
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.launch import share_items
from jobs.engine.marker import Marker
from jobs.engine.outcome import RunFailed, check_stage
from jobs.engine.outputs import check_outputs, first_fault
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.engine.targets import check_targets
from jobs.engine.worker import PEER_LOST, work_alone, work_together
from pipeline.training.stopping import SIGNALS, Stopped
from pipeline.training.world import World
from slurm.calls import FAILED
from slurm.job import (
    BACK_TO_QUEUE,
    USED_UP,
    await_end,
    describe_stop,
    process,
    rendezvous_address,
    requeue,
    restarts,
    share,
)
from slurm.states import ENDED_WELL, JobState

_POLL_SECONDS = 0.5  # between looks for a marker
_VISIBLE_SECONDS = 60.0  # until files of another node are seen here: NFS may remember a folder for so long


def find_items(open_graph: OpenGraph, root: Path, max_restarts: int) -> None:
    """Search for the items of all stages that need it, for the jobs that come after."""
    with _stoppable(World(), max_restarts):
        for stage in open_graph(root).stages.values():
            if stage.uses_search:
                logger.info(stage.find_items(ignore_progress))


def run_share(open_graph: OpenGraph, root: Path, stage_name: str, max_restarts: int) -> None:
    """Do items of a stage, as one task of an array whose tasks share them."""
    worker, workers = share()
    with _stoppable(World(), max_restarts):
        graph = open_graph(root)
        stage = graph.stages[stage_name]
        _await_inputs(graph, stage, stage.items())
        decisions = graph.decide(stage)
        check_targets(graph, decisions)
        pending = [decision.ref[1] for decision in decisions if decision.run]
        if pending:
            work_alone(open_graph, root, stage_name, share_items(pending, workers)[worker])
        _exit_unless_done(stage, pending)


def run_rank(open_graph: OpenGraph, root: Path, stage_name: str, item: str, max_restarts: int) -> None:
    """Do one item, as one rank of the job."""
    rank, size, local_rank = process()
    world = World(rank, size, local_rank, rendezvous_address() if size > 1 else "")
    with _stoppable(world, max_restarts):
        _join_item(open_graph, root, stage_name, item, world, max_restarts)


def run_items(open_graph: OpenGraph, root: Path, stage_name: str, items: Sequence[str], max_restarts: int) -> None:
    """Do one item after the other, as one rank of a job that they share; those of fewer ranks take the first ranks."""
    rank, size, local_rank = process()
    graph = open_graph(root)
    stage = graph.stages[stage_name]
    with _stoppable(World(rank, size), max_restarts):
        for number, item in enumerate(item for item in items if _is_still_there(stage, item)):
            ranks = stage.ranks(item)
            if rank < ranks:
                world = World(rank, ranks, local_rank, rendezvous_address(number) if ranks > 1 else "")
                _run_in_process(_join_item, open_graph, root, stage_name, item, world, max_restarts)
            if rank == 0 and not stage.markers.has_ended_here(item):
                stage.markers.remove(item)  # of an earlier job
                (states,) = newest_states(stage.folder, graph, [(stage_name, item)]).values()
                stage.markers.write_death(item, _describe_death(stage.folder, states))
            while not stage.markers.has_ended_here(item):
                time.sleep(_POLL_SECONDS)


def _run_in_process(call: Callable[..., None], *arguments: object) -> None:
    """Call in a process of its own, whose failure ends nothing else; wait for it also when asked to stop."""
    child = get_context("spawn").Process(target=_call_bound, args=(call, *arguments))
    child.start()
    try:
        child.join()
    finally:
        child.join()


def _call_bound(call: Callable[..., None], *arguments: object) -> None:
    end_with_parent()
    call(*arguments)


def _join_item(open_graph: OpenGraph, root: Path, stage_name: str, item: str, world: World, max_restarts: int) -> None:
    """Do an item as one rank, if it is to be run."""
    graph = open_graph(root)
    stage = graph.stages[stage_name]
    if not _is_still_there(stage, item):
        return
    _await_inputs(graph, stage, [item])
    marker, decision = stage.markers.read(item), graph.decide_item(stage, item)
    if not decision.run:
        if decision.reason.cause is not Cause.DONE:
            sys.exit(f"{stage_name}/{item}: {decision.reason}")
        return
    if world.leads:
        _clear_way(graph, decision, marker)
    try:
        work_together(open_graph, root, stage_name, item, world)
    except Stopped as stopped:
        marker = stage.markers.read(item)
        if marker and not marker.is_stopped and stage.markers.has_ended_here(item):
            sys.exit(PEER_LOST)  # srun ends this rank, as that one failed by itself: the job may not come back
        if marker and world.leads and _may_not_restart(stopped, max_restarts):
            stage.markers.write(item, replace(marker, reason=_describe_used_up(stopped, max_restarts)))
        raise


def _is_still_there(stage: Stage, item: str) -> bool:
    """Whether the settings still name an item that was put in the queue; a warning says where they do not."""
    is_there = item in stage.items()
    if not is_there:
        logger.warning(f"{stage.name}/{item}: left out, as the settings were changed and no longer name it")
    return is_there


def _clear_way(graph: Graph, decision: Decision, marker: Marker | None) -> None:
    """Remove the marker of an earlier start; any rank that fails from here on writes one.

    Raises:
        UserError: the item would replace files that the program did not write; its marker says so.
    """
    name, item = decision.ref
    stage = graph.stages[name]
    try:
        check_targets(graph, [decision])
    except UserError as error:
        stage.markers.write(item, Marker("refused", graph.parts(stage, item), time.time(), 0.0, str(error), {}))
        raise
    stage.markers.remove_unchanged(item, marker)


def _await_inputs(graph: Graph, stage: Stage, items: Sequence[str]) -> None:
    """Wait until all inputs are seen here as their jobs, which have ended, left them; one without marker has died.

    Raises:
        RunFailed: too much of a stage before this one did not succeed, or what it left was changed since.
    """
    refs = {ref for item in items for ref in stage.inputs(item)}
    deadline = time.monotonic() + _VISIBLE_SECONDS
    late = [ref for ref in refs if not _is_seen(graph, ref)]
    if late:
        logger.info(f"waiting until {'/'.join(late[0])} is seen here as its job left it")
    while late and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        late = [ref for ref in late if not _is_seen(graph, ref)]
    for (name, item), states in newest_states(stage.folder, graph, late).items():
        if all(state.final for state in states):  # else this job did not wait for it
            graph.stages[name].markers.write_death(item, _describe_death(stage.folder, states))
    check_outputs((graph.stages[name], item) for name, item in late)
    if not stage.concludes:
        for name in sorted({name for name, _ in refs}):
            check_stage(graph.stages[name])


def _is_seen(graph: Graph, ref: Ref) -> bool:
    """Whether an item's marker is seen here, and its outputs are those that the marker names.

    An item that is blocked by one that did not succeed has none.
    """
    stage, item = graph.stages[ref[0]], ref[1]
    marker = graph.marker(ref)
    if marker is None:
        return _is_blocked(graph, ref)
    return marker.state != "done" or not first_fault(stage, item, marker)


def _is_blocked(graph: Graph, ref: Ref) -> bool:
    blocker = graph.blocked_by(graph.stages[ref[0]], ref[1])
    return blocker is not None and (graph.marker(blocker) is not None or _is_blocked(graph, blocker))


def _describe_death(folder: RunFolder, states: Sequence[JobState]) -> str:
    """Say how the newest jobs of an item ended, which left no marker: of an array the first task that ended badly."""
    ended_badly = (state for state in states if state.final and state.state not in ENDED_WELL)
    end = next((describe_end_of(folder, state) for state in ended_badly), None)
    return f"{end or 'its job ended'} before it was done; see the logs"


def _exit_unless_done(stage: Stage, items: Sequence[str]) -> None:
    """End this process badly if one of the items did, so that Slurm knows."""
    failed = [item for item in items if (marker := stage.markers.read(item)) and marker.state != "done"]
    if failed:
        sys.exit(f"{stage.name}: {', '.join(failed)} did not succeed")


@contextmanager
def _stoppable(world: World, max_restarts: int) -> Iterator[None]:
    """Go back to the queue when asked to stop by SIGUSR2: before the time limit, or where this job is preempted.

    SIGTERM comes from a user who cancels, or from a preemption after which Slurm itself puts the job back. A job ends
    with a sentence where too much before it did not succeed.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        yield
    except RunFailed as error:
        sys.exit(f"{FAILED}{error}")
    except Stopped as stopped:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        logger.info(f"{stopped}; this is restart {restarts()} of at most {max_restarts}")
        if stopped.number == signal.SIGTERM:
            await_end()
        if _may_not_restart(stopped, max_restarts):
            logger.error(_describe_used_up(stopped, max_restarts))
            sys.exit(USED_UP)
        if world.leads:
            logger.info(f"{BACK_TO_QUEUE} because {describe_stop(stopped.number)}")
        requeue(leads=world.leads)


def _may_not_restart(stopped: Stopped, max_restarts: int) -> bool:
    return stopped.number != signal.SIGTERM and restarts() >= max_restarts


def _describe_used_up(stopped: Stopped, max_restarts: int) -> str:
    """Say that a job may not go back to the queue again, why it was stopped, and what to do."""
    start = "" if stopped.step is None else f"; it goes on from step {stopped.step}"
    return (
        f"the restarts of this job ({restarts()} of {max_restarts}) are used up, and it was stopped because "
        f"{describe_stop(stopped.number)}: raise `restarts` or `minutes` in the profile and submit again{start}"
    )


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(f"this job was asked to stop by {signal.Signals(number).name}", number)
