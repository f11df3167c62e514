"""A run in Slurm's queue, seen from outside: the states of its jobs, its logs, and how to cancel it."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.engine.submissions import Submission, Submissions, items_of
from jobs.engine.worker import PEER_LOST
from slurm.causes import find_cause
from slurm.commands import array_of
from slurm.states import ENDED_BADLY, RUNNING, JobState, cancel, job_states

_TAIL_LINES = 40
_ERROR = re.compile(r"^Traceback|: error:|CANCELLED|Error: |Killed", re.MULTILINE)


def queued_states(folder: RunFolder, graph: Graph) -> Mapping[Ref, tuple[str, str]]:
    """Ask Slurm for the state of each item's newest jobs, with a note; an array's state is that of all its items.

    Raises:
        SlurmError: Slurm does not answer.
    """
    newest = {
        (submission.stage, item): submission
        for submission in Submissions(folder.root).read()
        for item in items_of(graph, submission)
    }
    states = _states_by_submission(set(newest.values()))
    summaries = {submission: _summarize(jobs) for submission, jobs in states.items()}
    return {ref: summaries[submission] for ref, submission in newest.items()}


def _states_by_submission(submissions: set[Submission]) -> dict[Submission, list[JobState]]:
    by_job = defaultdict[str, list[JobState]](list)
    for state in job_states([job for submission in submissions for job in submission.jobs]).values():
        by_job[array_of(state.job)].append(state)
    return {submission: [state for job in submission.jobs for state in by_job[job]] for submission in submissions}


def _summarize(states: Sequence[JobState]) -> tuple[str, str]:
    """Return one state and a note for several jobs."""
    restarts = max((state.restarts for state in states), default=0)
    running = [state for state in states if state.state in RUNNING]
    waiting = [state for state in states if not state.final]
    failed = [state for state in states if state.state in ENDED_BADLY]
    requeued = [f"requeued {restarts} x"] if restarts else []
    if running:
        return "running", ", ".join([f"on {', '.join(sorted({state.nodes for state in running}))}", *requeued])
    if waiting:
        return "waiting", ", ".join([f"in the queue: {waiting[0].reason or waiting[0].state}", *requeued])
    if failed:
        return "failed", ", ".join([f"job {failed[0].job} ended as {failed[0].state}", *requeued])
    return ("done" if states else ""), ", ".join(requeued)


def cancel_run(folder: RunFolder) -> int:
    """End all that the run has in the queue; return the number of jobs that were ended.

    Raises:
        SlurmError: Slurm does not answer.
    """
    states = job_states([job for submission in Submissions(folder.root).read() for job in submission.jobs])
    live = sorted({state.job for state in states.values() if not state.final})
    cancel(live)
    return len(live)


def failing_logs(folder: RunFolder, stage: str | None) -> Iterator[tuple[Path, str]]:
    """Yield the logs of failed processes with their last lines; if nothing failed, the newest log.

    Processes that failed only because they lost another rank come last. ``stage``: the logs of this stage alone.
    """
    texts = [(path, path.read_text(errors="replace")) for path in _logs(folder, stage)]
    failed = [(path, text) for path, text in texts if _ERROR.search(text)]
    for path, text in sorted(failed, key=lambda log: PEER_LOST in log[1]) or texts[-1:]:
        cause = find_cause(text)
        yield path, "\n".join([*text.splitlines()[-_TAIL_LINES:], *([f"cause: {cause}"] if cause else [])])


def _logs(folder: RunFolder, stage: str | None) -> list[Path]:
    """List the logs by age, the oldest first."""
    logs = folder.root / "logs"
    submissions = [submission for submission in Submissions(folder.root).read() if stage in (None, submission.stage)]
    jobs = {job for submission in submissions for job in submission.jobs}
    queued = [path for path in logs.glob("slurm/*_log.out") if path.name.split("_")[0] in jobs]
    local = logs.glob(f"{stage or '*'}.*.log")
    return sorted([*queued, *local], key=lambda path: path.stat().st_mtime)
