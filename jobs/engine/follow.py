"""A run in Slurm's queue, seen from outside: the states of its jobs, and how to cancel it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_prep.log import logger
from jobs.engine.graph import Graph
from jobs.engine.item_states import QueueState
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.engine.submissions import Submission, Submissions, items_of, jobs_of
from slurm.commands import SlurmError, array_of
from slurm.sentences import describe_end, describe_wait
from slurm.states import ENDED_BADLY, RUNNING, JobState, cancel, job_states


def queued_states(folder: RunFolder, graph: Graph) -> Mapping[Ref, QueueState]:
    """Ask Slurm for the state of each item's newest jobs, with a note; an array's state is that of all its items.

    Where Slurm does not answer, a warning says so, and the states are empty.
    """
    newest = {
        (submission.stage, item): submission
        for submission in Submissions(folder.root).of_this_folder()
        for item in items_of(graph, submission)
    }
    try:
        states = _states_by_submission(set(newest.values()))
    except SlurmError as error:
        logger.warning(f"{error}: what is shown is what the run folder holds")
        states = {submission: [] for submission in newest.values()}
    summaries = {submission: QueueState(*_summarize(jobs), submission) for submission, jobs in states.items()}
    return {ref: summaries[submission] for ref, submission in newest.items()}


def newest_states(folder: RunFolder, refs: Sequence[Ref]) -> dict[Ref, list[JobState]]:
    """Ask Slurm, once, for the states of the newest jobs of items; where it does not answer, a warning says so."""
    submissions = Submissions(folder.root).of_this_folder() if refs else []
    newest = {(submission.stage, item): submission for submission in submissions for item in submission.items}
    try:
        states = _states_by_submission({newest[ref] for ref in refs if ref in newest})
    except SlurmError as error:
        logger.warning(error)
        states = {}
    return {ref: states.get(newest[ref], []) if ref in newest else [] for ref in refs}


def _states_by_submission(submissions: set[Submission]) -> dict[Submission, list[JobState]]:
    by_job = defaultdict[str, list[JobState]](list)
    for state in job_states(jobs_of(submissions)).values():
        by_job[array_of(state.job)].append(state)
    return {submission: [state for job in submission.jobs for state in by_job[job]] for submission in submissions}


def _summarize(states: Sequence[JobState]) -> tuple[str, str]:
    """Return one state and a note for several jobs."""
    restarts = max((state.restarts for state in states), default=0)
    running = [state for state in states if state.state in RUNNING and not state.final]
    waiting = [state for state in states if not state.final]
    failed = [state for state in states if state.state in ENDED_BADLY]
    requeued = [f"requeued {restarts} x"] if restarts else []
    if running:
        return "running", ", ".join([f"on {', '.join(sorted({state.nodes for state in running}))}", *requeued])
    if waiting:
        return "waiting", ", ".join([f"in the queue {describe_wait(waiting[0])}", *requeued])
    if failed:
        return "failed", ", ".join([describe_end(failed[0]), *requeued])
    return ("done" if states else ""), ", ".join(requeued)


def cancel_run(folder: RunFolder) -> int:
    """End all that the run has in the queue; return the number of jobs that were ended.

    Raises:
        SlurmError: Slurm does not answer, or has no such jobs, as they are another cluster's.
    """
    states = job_states(jobs_of(Submissions(folder.root).of_this_folder()))
    live = sorted({state.job for state in states.values() if not state.final})
    cancel(live)
    return len(live)
