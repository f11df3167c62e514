"""A run in Slurm's queue, seen from outside: the states of its jobs, and how to cancel it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from data_prep.log import logger
from jobs.engine.graph import Graph
from jobs.engine.item_states import QueueState
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.engine.submissions import Submission, Submissions, items_of, states_of
from slurm.causes import find_cause_of_start
from slurm.commands import SlurmError, array_of
from slurm.sentences import describe_end, describe_wait
from slurm.states import ENDED_BADLY, RUNNING, JobState, cancel


def queued_states(folder: RunFolder, graph: Graph) -> Mapping[Ref, QueueState]:
    """Ask Slurm for the state of each item's newest jobs, with a note; an array's state is that of all its items."""
    newest = _newest_submissions(folder, graph)
    states = _states_by_submission(newest.values())
    summaries = {submission: QueueState(*_summarize(folder, jobs), submission) for submission, jobs in states.items()}
    return {ref: summaries[submission] for ref, submission in newest.items()}


def newest_states(folder: RunFolder, graph: Graph, refs: Sequence[Ref]) -> dict[Ref, list[JobState]]:
    """Ask Slurm, once, for the states of the newest jobs of items."""
    newest = _newest_submissions(folder, graph) if refs else {}
    states = _states_by_submission([newest[ref] for ref in refs if ref in newest])
    return {ref: states[newest[ref]] if ref in newest else [] for ref in refs}


def _newest_submissions(folder: RunFolder, graph: Graph) -> dict[Ref, Submission]:
    submissions = Submissions(folder.root).of_this_folder()
    return {(submission.stage, item): submission for submission in submissions for item in items_of(graph, submission)}


def _states_by_submission(submissions: Iterable[Submission]) -> dict[Submission, list[JobState]]:
    """Ask Slurm for the states of jobs; where it does not answer, a warning says so, and there are none."""
    by_job = defaultdict[str, list[JobState]](list)
    asked = set(submissions)
    try:
        states = states_of(asked)
    except SlurmError as error:
        logger.warning(f"{error}: what is known is what the run folder holds")
        states = {}
    for state in states.values():
        by_job[array_of(state.job)].append(state)
    return {submission: [state for job in submission.jobs for state in by_job[job]] for submission in asked}


def _summarize(folder: RunFolder, states: Sequence[JobState]) -> tuple[str, str]:
    """Return one state and a note for several jobs."""
    live = [state for state in states if not state.final]
    running = [state for state in live if state.state in RUNNING]
    failed = [state for state in states if state.state in ENDED_BADLY]
    requeued = _describe_restarts(folder, states, tells_cause=bool(live))
    if running:
        return "running", ", ".join([f"on {', '.join(sorted({state.nodes for state in running}))}", *requeued])
    if live:
        return "waiting", ", ".join([f"in the queue {describe_wait(live[0])}", *requeued])
    if failed:
        return "failed", ", ".join([describe_end_of(folder, failed[0]), *requeued])
    return ("done" if states else ""), ", ".join(requeued)


def _describe_restarts(folder: RunFolder, states: Sequence[JobState], *, tells_cause: bool) -> list[str]:
    """Say how often jobs were put back in the queue, and why the last time; nothing if none was."""
    restarted = max((state for state in states if state.restarts), key=lambda state: state.restarts, default=None)
    if restarted is None:
        return []
    cause = _find_cause(folder, restarted.job, restarted.restarts - 1) if tells_cause else None
    return [f"requeued {restarted.restarts} x{f', last: {cause}' if cause else ''}"]


def describe_end_of(folder: RunFolder, state: JobState) -> str:
    """Say how a job of a run ended, and why if its log tells."""
    return describe_end(state, _find_cause(folder, state.job, state.restarts))


def _find_cause(folder: RunFolder, job: str, restarts: int) -> str | None:
    return find_cause_of_start(folder.root / "logs" / "slurm", job, restarts)


def cancel_run(folder: RunFolder) -> int:
    """End all that the run has in the queue; return the number of jobs that were ended.

    Raises:
        SlurmError: Slurm does not answer, or has no such jobs, as they are another cluster's.
    """
    states = states_of(Submissions(folder.root).of_this_folder())
    live = sorted({state.job for state in states.values() if not state.final})
    cancel(live)
    return len(live)
