"""What became of a run in Slurm's queue: its jobs beside its markers, its logs, and its end."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.queue import ANY
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.engine.submissions import Submission, Submissions
from slurm.causes import find_cause
from slurm.commands import array_of
from slurm.states import ENDED_BADLY, RUNNING, JobState, cancel, job_states

_TAIL_LINES = 40
_TRACE = re.compile(r"^Traceback|: error:|CANCELLED|Error: |Killed", re.MULTILINE)
_SECOND_HAND = re.compile(r"PeerLost|fell silent|lost its connection")


def jobs_of(folder: RunFolder) -> list[str]:
    """Ids of all jobs and arrays that the run put in the queue."""
    return [job for one in Submissions(folder.root).all() for job in one.jobs]


def queued_states(folder: RunFolder, graph: Graph) -> Mapping[Ref, tuple[str, str]]:
    """State and note of each item's newest jobs; those of an array stand for all items that its tasks share.

    Raises:
        SlurmError: Slurm does not answer.
    """
    made = Submissions(folder.root).all()
    last = {(one.stage, item): one for one in made for item in _items(graph, one)}
    newest = set(last.values())
    by_job: dict[str, list[JobState]] = {}
    for state in job_states([job for one in newest for job in one.jobs]).values():
        by_job.setdefault(array_of(state.job), []).append(state)
    told = {one: _told_of([state for job in one.jobs for state in by_job.get(job, [])]) for one in newest}
    return {ref: told[one] for ref, one in last.items()}


def _items(graph: Graph, made: Submission) -> Sequence[str]:
    return graph.stages[made.stage].items() if ANY in made.items else made.items


def _told_of(states: Sequence[JobState]) -> tuple[str, str]:
    """State and note of what those jobs do together."""
    restarts = max((state.restarts for state in states), default=0)
    running = [state for state in states if state.state in RUNNING]
    waiting = [state for state in states if not state.final]
    bad = [state for state in states if state.state in ENDED_BADLY]
    again = [f"requeued {restarts} x"] if restarts else []
    if running:
        return "running", ", ".join([f"on {', '.join(sorted({state.nodes for state in running}))}", *again])
    if waiting:
        return "waiting", ", ".join([f"in the queue: {waiting[0].reason or waiting[0].state}", *again])
    if bad:
        return "failed", ", ".join([f"job {bad[0].job} ended as {bad[0].state}", *again])
    return ("done" if states else ""), ", ".join(again)


def cancel_run(folder: RunFolder) -> int:
    """End all that the run has in the queue; return how many jobs that were.

    Raises:
        SlurmError: Slurm does not answer.
    """
    states = job_states(jobs_of(folder))
    live = sorted({state.job for state in states.values() if not state.final})
    cancel(live)
    return len(live)


def failing_logs(folder: RunFolder, stage: str | None) -> Iterator[tuple[Path, str]]:
    """Logs and their ends, of the run's failed processes; first of those that tell of a fault of their own.

    Without a failure, the newest log. ``stage``: of this stage alone.
    """
    found = [(path, path.read_text(errors="replace")) for path in _logs(folder, stage)]
    bad = [(path, text) for path, text in found if _TRACE.search(text)]
    chosen = sorted(bad, key=lambda one: bool(_SECOND_HAND.search(one[1]))) if bad else found[-1:]
    for path, text in chosen:
        cause = find_cause(text)
        yield path, "\n".join([*text.splitlines()[-_TAIL_LINES:], *([f"cause: {cause}"] if cause else [])])


def _logs(folder: RunFolder, stage: str | None) -> list[Path]:
    """By age, the oldest first."""
    logs = folder.root / "logs"
    ids = {job for one in Submissions(folder.root).all() if stage in (None, one.stage) for job in one.jobs}
    queued = [path for path in logs.glob("slurm/*_log.out") if path.name.split("_")[0] in ids]
    local = logs.glob(f"{stage or '*'}.*.log")
    return sorted([*queued, *local], key=lambda path: path.stat().st_mtime)
