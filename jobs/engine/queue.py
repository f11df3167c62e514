"""The whole graph in Slurm's queue: one submission, and nobody needs to stay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.in_job import find_items, run_in_turn, run_rank, run_share
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.engine.submissions import Submission, Submissions
from slurm.commands import array_of
from slurm.partitions import check_partitions
from slurm.profile import Profile
from slurm.states import job_states
from slurm.submit import JobRequest, create_private_folder, enqueue

FIND = "find"
"""Name of the job that looks through the sources."""
ANY = "*"
"""In place of scans that are still to be found."""


@dataclass
class _Queue:
    """Puts jobs in the queue, and knows what depends on what."""

    folder: RunFolder
    profile: Profile
    open_graph: OpenGraph

    def __post_init__(self) -> None:
        self.submissions = Submissions(self.folder.root)
        self.made: list[Submission] = []

    def put(self, call: Callable[..., None], stage: str, items: Sequence[str], wanted: JobRequest) -> None:
        """Submit, and note it."""
        logs = self.folder.root / "logs"
        create_private_folder(logs)
        jobs = enqueue(self.profile, logs / "slurm", call, wanted)
        gpus = self.profile.gpus_a_task * wanted.tasks if wanted.ranks or wanted.uses_gpu else 0
        self.made.append(self.submissions.add(stage, items, jobs, len(wanted.calls) * wanted.tasks, gpus))

    def after(self, stage: Stage, items: Sequence[str]) -> str:
        """The dependency on all jobs, in the queue, that the items wait for.

        A stage that makes do with what succeeded waits for the others' end alone.
        """
        refs = {ref for item in items for ref in _inputs(stage, item)}
        jobs = sorted({job for made in self.made if _feeds(made, refs) for job in made.jobs}, key=int)
        lenient = not stage.uses_search and (stage.any_input or stage.tolerated())
        return f"{'afterany' if lenient else 'afterok'}:{':'.join(jobs)}" if jobs else ""


def _inputs(stage: Stage, item: str) -> list[Ref]:
    """What the item waits for: the search for it, all items of a stage, or its inputs."""
    if stage.uses_search:
        return [(FIND, ANY)]
    return [(stage.gathers, ANY)] if stage.gathers else stage.inputs(item)


def _feeds(made: Submission, refs: set[Ref]) -> bool:
    return (made.stage, ANY) in refs or any((made.stage, item) in refs for item in made.items)


def live_of(folder: RunFolder) -> list[Submission]:
    """Submissions of which something is still in the queue.

    Raises:
        SlurmError: Slurm does not answer.
    """
    made = Submissions(folder.root).all()
    states = job_states([job for one in made for job in one.jobs])
    live = {array_of(state.job) for state in states.values() if not state.final}
    return [one for one in made if live.intersection(one.jobs)]


def submit_graph(
    graph: Graph, folder: RunFolder, profile: Profile, live: Sequence[Submission], open_graph: OpenGraph
) -> list[Submission]:
    """Put all that is missing or changed in the queue, each job behind those that it needs.

    Args:
        graph: the stages.
        folder: of the run.
        profile: the cluster.
        live: earlier submissions of which something is still in the queue: their items are not submitted again.
        open_graph: how the jobs open it.

    Raises:
        UserError: a demand that the profile or its partition cannot meet.
    """
    queue = _Queue(folder, profile, open_graph)
    check_partitions(
        profile, max((s.ranks(i) for s in graph.stages.values() if s.own_job for i in s.items()), default=1)
    )
    queue.made.extend(live)
    known = all(stage.is_searched() for stage in graph.stages.values())
    if not known and not any(one.stage == FIND for one in live):
        queue.put(find_items, FIND, [FIND], JobRequest(FIND, [(open_graph, folder.root)]))
    waiting = {(one.stage, item) for one in live for item in _items(graph, one, known=known)}
    for stage in graph.stages.values():
        items = _pending(graph, stage, waiting, known=known)
        if stage.own_job and items:
            _queue_cells(queue, stage, stage.in_turn(items), known=known)
        elif items:
            _queue_workers(queue, stage, items)
        waiting.update((stage.name, item) for item in items)
    return queue.made[len(live) :]


def _items(graph: Graph, made: Submission, *, known: bool) -> Sequence[str]:
    """What a submission covers: of preparation, all scans that were found since."""
    return graph.stages[made.stage].items() if ANY in made.items and known else made.items


def _pending(graph: Graph, stage: Stage, waiting: set[Ref], *, known: bool) -> list[str]:
    """Items to be run that are not in the queue; all that are known, while the scans are still to be found."""
    if known:
        items = [decision.ref[1] for decision in graph.decide(stage, waiting) if decision.run]
    else:
        items = [ANY] if stage.uses_search else stage.items()
    return [item for item in items if (stage.name, item) not in waiting]


def _queue_cells(queue: _Queue, stage: Stage, items: Sequence[str], *, known: bool) -> None:
    """A job each, or one in which they share the nodes in turn."""
    if known:  # else their jobs decide whether they are run again
        for item in items:
            stage.markers.clear_progress(item)
            stage.markers.remove(item)
    root, restarts, open_graph = queue.folder.root, queue.profile.restarts, queue.open_graph
    if stage.in_one_job:
        _queue_ranks(queue, stage, stage.name, run_in_turn, (open_graph, root, stage.name, items, restarts), items)
        return
    for item in items:
        arguments = (open_graph, root, stage.name, item, restarts)
        _queue_ranks(queue, stage, f"{stage.name}-{item}", run_rank, arguments, [item])


def _queue_ranks(
    queue: _Queue, stage: Stage, name: str, call: Callable[..., None], arguments: tuple[Any, ...], items: Sequence[str]
) -> None:
    ranks = max(stage.ranks(item) for item in items)
    queue.put(
        call, stage.name, items, JobRequest(name, [arguments], ranks, ranks=True, dependency=queue.after(stage, items))
    )


def _queue_workers(queue: _Queue, stage: Stage, items: Sequence[str]) -> None:
    workers = stage.workers() if ANY in items else min(stage.workers(), len(items))
    calls = [(queue.open_graph, queue.folder.root, stage.name, queue.profile.restarts)] * workers
    wanted = JobRequest(stage.name, calls, uses_gpu=stage.uses_gpu, dependency=queue.after(stage, items))
    queue.put(run_share, stage.name, items, wanted)
