"""The whole graph in Slurm's queue: one submission, after which no process needs to stay."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import UserError
from data_prep.files import check_writable, digest_json
from data_prep.log import logger
from jobs.engine.decision import Cause
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.in_job import find_items, run_items, run_rank, run_share
from jobs.engine.marker import Marker
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.engine.submissions import ALL_ITEMS, FIND, Submission, Submissions, items_of, states_of
from slurm.associations import check_association
from slurm.commands import SlurmError, array_of, cluster_name
from slurm.partitions import check_partitions
from slurm.profile import Profile
from slurm.states import WAITING, cancel
from slurm.submit import JobRequest, enqueue, take_back


@dataclass
class _Queue:
    """Puts jobs of one run in the queue, each behind the live or new jobs that do what it needs.

    ``is_searched``: whether the items of all stages are known already, else a job finds them. ``live``: earlier
    submissions of which something is still in the queue. ``cluster``: its name.
    """

    folder: RunFolder
    profile: Profile
    open_graph: OpenGraph
    is_searched: bool
    live: Sequence[Submission]
    cluster: str
    submissions: list[Submission] = field(default_factory=list)
    _jobs: list[str] = field(default_factory=list)
    _markers: list[tuple[Stage, str, Marker | None]] = field(default_factory=list)

    def put(self, call: Callable[..., None], stage: str, items: Sequence[str], request: JobRequest) -> None:
        """Submit ``call`` as ``request`` says, and record it."""
        jobs = enqueue(self.profile, self.folder.root / "logs" / "slurm", call, request)
        self._jobs += jobs
        tasks, gpus = len(request.calls) * request.tasks, request.gpus(self.profile)
        self.submissions.append(Submissions(self.folder.root).add(stage, items, jobs, tasks, gpus, self.cluster))

    def replace_marker(self, stage: Stage, item: str) -> None:
        """Remember the marker of an item that is submitted, to be removed when all jobs are in the queue."""
        self._markers.append((stage, item, stage.markers.read(item)))

    def remove_markers(self) -> None:
        """Remove the markers of items that are in the queue, unless a job has written another since."""
        for stage, item, marker in self._markers:
            if not stage.markers.is_running(item):
                stage.markers.clear_progress(item)
                stage.markers.remove_unchanged(item, marker)

    def end_superseded(self) -> None:
        """Take earlier jobs out of the queue that wait, and all of whose items were submitted once more.

        They would start from what is about to be made anew. One that has started by now goes on.
        """
        again = {(submission.stage, item) for submission in self.submissions for item in submission.items}
        superseded = [x for x in self.live if again.issuperset((x.stage, item) for item in x.items)]
        try:
            states = states_of(superseded).values()
            cancel([state.job for state in states if state.state in WAITING and not state.final])
        except SlurmError as error:
            jobs = ", ".join(job for submission in superseded for job in submission.jobs)
            logger.warning(f"{error}: jobs {jobs} may start before what they read is made anew")

    def take_back(self, cause: BaseException) -> None:
        """Leave queue and records as they were before the first job.

        Raises:
            SlurmError: the jobs could not be cancelled, and stay recorded; the message names them.
        """
        take_back(self._jobs, cause)
        Submissions(self.folder.root).remove(self.submissions)

    def dependency(self, stage: Stage, items: Sequence[str]) -> str:
        """Name all jobs that the items wait for, in Slurm's words; their end is enough where some may fail.

        That of earlier jobs with the same items is enough, too. Of an item that is in the queue twice, the newer job
        counts: it waits for the earlier one.
        """
        refs = {ref for item in items for ref in _sources(stage, item)}
        feeding = _jobs_that_feed([*self.live, *self.submissions], refs)
        earlier = _jobs_that_feed(self.live, {(stage.name, item) for item in items})
        if stage.accepts_failed_inputs or stage.is_lenient:
            feeding, earlier = set(), feeding | earlier
        kinds = {"afterok": feeding, "afterany": earlier}
        return ",".join(f"{kind}:{':'.join(sorted(jobs, key=int))}" for kind, jobs in kinds.items() if jobs)


def _sources(stage: Stage, item: str) -> list[Ref]:
    """List what the item waits for: the search for it, all items of another stage, or its inputs."""
    if stage.uses_search:
        return [(FIND, ALL_ITEMS)]
    return [(stage.gathers, ALL_ITEMS)] if stage.gathers else stage.inputs(item)


def _jobs_that_feed(submissions: Iterable[Submission], refs: set[Ref]) -> set[str]:
    """Collect the newest jobs of each item that is read; the submissions come in their order."""
    newest = {
        (submission.stage, item): submission.jobs
        for submission in submissions
        for item in submission.items
        if refs.intersection([(submission.stage, item), (submission.stage, ALL_ITEMS)])
    }
    return {job for jobs in newest.values() for job in jobs}


def live_submissions(folder: RunFolder) -> list[Submission]:
    """Read the submissions of which something is still in the queue.

    Raises:
        SlurmError: Slurm does not answer, or another cluster has them.
    """
    submissions = Submissions(folder.root).of_this_folder()
    states = states_of(submissions)
    live = {array_of(state.job) for state in states.values() if not state.final}
    return [submission for submission in submissions if live.intersection(submission.jobs)]


def submit_graph(
    graph: Graph, folder: RunFolder, profile: Profile, live: Sequence[Submission], open_graph: OpenGraph
) -> list[Submission]:
    """Put all that is missing or changed in the queue, each job behind those that it needs; return the submissions.

    Either all jobs are in the queue afterwards, or none.

    Args:
        graph: the stages.
        folder: of the run.
        profile: the cluster.
        live: earlier submissions of which something is still in the queue: their items are not submitted again.
        open_graph: opens the graph in the jobs.

    Raises:
        UserError: Slurm refuses a job; the others were taken back.
        SlurmError: Slurm does not answer; the message names what could not be taken back.
    """
    is_searched = all(stage.is_searched() for stage in graph.stages.values())
    queue = _Queue(folder, profile, open_graph, is_searched, live, cluster_name())
    try:
        _queue_stages(queue, graph)
    except BaseException as error:
        queue.take_back(error)
        raise
    queue.remove_markers()
    queue.end_superseded()
    return queue.submissions


def check_submission(graph: Graph, folder: RunFolder, profile: Profile, live: Sequence[Submission]) -> None:
    """Check what can be checked before a submission: what runs, the cluster's partitions and accounts, the run folder.

    ``live``: earlier submissions of which something is still in the queue.

    Raises:
        UserError: a job runs under other settings, a demand that the cluster cannot meet, or a folder that cannot be
            written.
        SlurmError: Slurm does not answer.
    """
    for submission in live:
        _check_running(graph, folder, submission)
    check_partitions(profile, _largest_requests(graph))
    check_association(profile)
    check_writable(folder.root)


def _check_running(graph: Graph, folder: RunFolder, submission: Submission) -> None:
    """Check that no item runs under other settings, whose outcome would be judged and reported under these."""
    stage = graph.stages.get(submission.stage)
    if stage is None or not stage.is_searched():
        return
    named = set(stage.items())
    for item in filter(stage.markers.is_running, items_of(graph, submission)):
        if item not in named or stage.markers.read_start(item) not in (None, digest_json(graph.parts(stage, item))):
            raise UserError(
                f"{stage.name}/{item} runs in job {', '.join(submission.jobs)} under other settings: wait for "
                f"its end, or end it first (`quarterdose cancel {folder.root}`)"
            )


def _queue_stages(queue: _Queue, graph: Graph) -> None:
    if not queue.is_searched and not any(submission.stage == FIND for submission in queue.live):
        call = (queue.open_graph, queue.folder.root, queue.profile.restarts)
        queue.put(find_items, FIND, [FIND], JobRequest(FIND, [call]))
    queued = {ref for submission in queue.live for ref in _refs_in_queue(queue, graph, submission)}
    new = set[Ref]()
    for stage in graph.stages.values():
        items = _items_to_queue(queue, graph, stage, queued, new)
        if items:
            _queue_stage(queue, graph, stage, items, queued)
        new.update((stage.name, item) for item in items)
        queued |= new


def _largest_requests(graph: Graph) -> Iterator[JobRequest]:
    """Yield the largest job of each stage, without its calls."""
    for stage in graph.stages.values():
        ranks = max(map(stage.ranks, stage.items()), default=0) if stage.uses_ranks else 1
        if ranks:
            yield JobRequest(stage.name, [], ranks, ranks=stage.uses_ranks, uses_gpu=stage.uses_gpu)


def _refs_in_queue(queue: _Queue, graph: Graph, submission: Submission) -> Iterator[Ref]:
    """Yield the items that jobs in the queue have yet to do."""
    stage = graph.stages.get(submission.stage)
    for item in items_of(graph, submission) if queue.is_searched else submission.items:
        if stage is None or not _has_ended(stage, item, submission):
            yield submission.stage, item


def _has_ended(stage: Stage, item: str, submission: Submission) -> bool:
    """Whether jobs have done an item, or failed at it and leave it as it is: a training that failed may be put back."""
    marker = stage.markers.read(item)
    if marker is None or array_of(marker.job) not in submission.jobs:
        return False
    return marker.state == "done" or not stage.uses_ranks


def _items_to_queue(queue: _Queue, graph: Graph, stage: Stage, queued: set[Ref], new: set[Ref]) -> list[str]:
    """List the items to be run that are not in the queue; before the search all items, as nothing can be decided.

    One that is there already, but waits for nothing that is ``new`` in the queue, goes behind that once more.
    """
    if queue.is_searched:
        items = [decision.ref[1] for decision in graph.decide(stage, queued) if decision.run]
    else:
        items = [ALL_ITEMS] if stage.uses_search else stage.items()
    return [item for item in items if (stage.name, item) not in queued or new.intersection(_inputs(queue, stage, item))]


def _inputs(queue: _Queue, stage: Stage, item: str) -> list[Ref]:
    return stage.inputs(item) if queue.is_searched else _sources(stage, item)


def _queue_stage(queue: _Queue, graph: Graph, stage: Stage, items: Sequence[str], queued: set[Ref]) -> None:
    if not stage.uses_ranks:
        _queue_workers(queue, stage, items)
        return
    for item in items:
        if _runs_for_itself(queue, graph, stage, item, queued):
            queue.replace_marker(stage, item)
    _queue_ranks(queue, stage, stage.start_order(items))


def _runs_for_itself(queue: _Queue, graph: Graph, stage: Stage, item: str, queued: set[Ref]) -> bool:
    """Whether an item runs whatever becomes of others; one that waits for them decides in its job."""
    return queue.is_searched and graph.decide_item(stage, item, queued).reason.cause is not Cause.INPUT_RUNS_FIRST


def _queue_ranks(queue: _Queue, stage: Stage, items: Sequence[str]) -> None:
    """Put a job for each item in the queue, or one in which they run one after the other."""
    root, restarts = queue.folder.root, queue.profile.restarts
    if stage.shares_job:
        _put_ranks(queue, stage, stage.name, run_items, (root, stage.name, items, restarts), items)
        return
    for item in items:
        _put_ranks(queue, stage, f"{stage.name}-{item}", run_rank, (root, stage.name, item, restarts), [item])


def _put_ranks(
    queue: _Queue, stage: Stage, name: str, call: Callable[..., None], arguments: tuple[Any, ...], items: Sequence[str]
) -> None:
    ranks, dependency = max(stage.ranks(item) for item in items), queue.dependency(stage, items)
    request = JobRequest(name, [(queue.open_graph, *arguments)], ranks, ranks=True, dependency=dependency)
    queue.put(call, stage.name, items, request)


def _queue_workers(queue: _Queue, stage: Stage, items: Sequence[str]) -> None:
    workers = stage.workers() if ALL_ITEMS in items else min(stage.workers(), len(items))
    calls = [(queue.open_graph, queue.folder.root, stage.name, queue.profile.restarts)] * workers
    request = JobRequest(stage.name, calls, uses_gpu=stage.uses_gpu, dependency=queue.dependency(stage, items))
    queue.put(run_share, stage.name, items, request)
