"""States of submitted jobs, as Slurm reports them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.log import logger
from slurm.accounting import Allocation, allocations
from slurm.commands import SlurmError, array_of, batches, is_after, output, unix_seconds

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
RUNNING = frozenset(
    {"CONFIGURING", "RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
)
ENDED_WELL = frozenset({"COMPLETED"})
ENDED_BADLY = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
# in accounting, states of a job that may still be in the queue: a requeued job keeps its former end there for seconds
NOT_FINAL = WAITING | RUNNING | {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}
_FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "SubmitTime", "StartTime", "EndTime")


@dataclass(frozen=True)
class JobState:
    """State of a job's newest incarnation, in Slurm's words; times in Unix seconds.

    ``state`` is in one of ``WAITING``, ``RUNNING``, ``ENDED_WELL`` and ``ENDED_BADLY``. ``final``: Slurm will not run
    the job again by itself. ``state`` alone does not say so. After ``NODE_FAIL`` a job may be in the queue again; a job
    that waits or runs by accounting but is not in the queue was lost, for example when the controller was killed.
    """

    job: str  # as squeue shows it: "123", or "123_4" of an array
    state: str
    final: bool
    reason: str  # why it waits, or did not start
    nodes: str  # "node[1-2]", or ""
    restarts: int
    exit: str  # "exit code:signal"
    submitted: float | None
    started: float | None
    ended: float | None


def job_states(ids: Sequence[str], at: Mapping[str, float] | None = None) -> dict[str, JobState]:
    """Ask Slurm for the states of jobs; return them by the ids that squeue shows, without jobs that Slurm forgot.

    squeue knows the jobs in the queue and those that ended less than ``MinJobAge`` ago; accounting knows the rest.
    While one of them does not answer, the other alone is asked, with a warning.

    Args:
        ids: of jobs ("123"), of arrays ("123": all their tasks) or of array tasks ("123_4").
        at: when jobs and arrays were submitted, by id: other jobs of these ids, which a cluster may use again, are left
            out.

    Raises:
        SlurmError: neither answers.
    """
    try:
        queue = _queue(ids, at or {})  # before accounting: what is absent from the queue has ended by then
    except SlurmError as error:
        past = allocations(ids, at)
        if past is None:
            raise
        logger.warning(f"{error}; accounting alone was asked")
        return _states_of(past, left_queue=False)
    forgotten = [job for job in ids if job not in queue]  # also arrays, some of whose tasks may be
    return {**_states_of(_ask_accounting(forgotten, at), left_queue=True), **queue}


def _ask_accounting(ids: Sequence[str], at: Mapping[str, float] | None) -> list[Allocation]:
    """Ask for jobs that are not in the queue: what is still to run or to be cancelled is known without them."""
    try:
        return (allocations(ids, at) if ids else None) or []
    except SlurmError as error:
        logger.warning(f"{error}; the queue alone was asked")
        return []


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs, arrays or array tasks; do nothing to those that ended.

    Raises:
        SlurmError: the controller does not answer, or a job belongs to someone else.
    """
    for batch in batches(sorted(set(ids))):
        output("scancel", "--quiet", *batch)


def _queue(ids: Sequence[str], at: Mapping[str, float]) -> dict[str, JobState]:
    requested = set(ids)
    form = ",".join(f"{field}:|" for field in _FIELDS)
    queue: dict[str, JobState] = {}
    for batch in batches(sorted({array_of(job) for job in ids})):
        try:
            text = output(
                "squeue", "--noheader", "--array", "--states=all", f"--Format={form}", f"--jobs={','.join(batch)}"
            )
        except SlurmError as error:
            if "Invalid job id" not in str(error):  # squeue says so only if asked for a single job
                raise
            continue
        states = (_read(line) for line in text.splitlines())
        queue |= {state.job: state for state in states if requested & {state.job, array_of(state.job)}}
    return {job: state for job, state in queue.items() if not _is_anothers(state, at.get(array_of(job)))}


def _is_anothers(state: JobState, at: float | None) -> bool:
    return at is not None and not state.restarts and is_after(state.submitted, at)


def _read(line: str) -> JobState:
    job, state, reason, nodes, restarts, status, submit_time, start_time, end_time, _ = line.split("|")
    ended = state in ENDED_WELL | ENDED_BADLY
    return JobState(
        job=job, state=state, final=ended, reason="" if reason == "None" else reason, nodes=nodes,
        restarts=int(restarts), exit=f"{int(status) >> 8}:{int(status) & 127}", submitted=unix_seconds(submit_time),
        started=unix_seconds(start_time) if nodes else None,  # else its forecast, or when it was cancelled
        ended=unix_seconds(end_time) if ended else None,  # while it runs: when its time limit ends
    )  # fmt: skip


def _states_of(past: Sequence[Allocation], *, left_queue: bool) -> dict[str, JobState]:
    """Make states of each job's newest incarnation; ``left_queue``: squeue answered and does not list the jobs."""
    return {
        newest.job: JobState(
            job=newest.job, state=newest.state, final=left_queue or newest.state not in NOT_FINAL,
            reason="" if newest.started else newest.reason, nodes=newest.nodes, restarts=newest.incarnation,
            exit=newest.exit, submitted=newest.submitted, started=newest.started, ended=newest.ended,
        )
        for newest in past
    }  # fmt: skip
