"""What became of submitted jobs, told by Slurm."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from slurm.accounting import Allocation, allocations
from slurm.commands import SlurmError, array_of, batches, output, unix_seconds

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
# accounting's word on a job that may be in the queue: a requeued one has its former end there for some seconds
NOT_FINAL = WAITING | RUNNING | {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}
_FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "SubmitTime", "StartTime", "EndTime")


@dataclass(frozen=True)
class JobState:
    """A job's state: that of its newest incarnation, in Slurm's words; times in Unix seconds.

    ``state`` is a word of ``WAITING``, ``RUNNING``, ``ENDED_WELL`` or ``ENDED_BADLY``. ``final``: Slurm will not run it
    again of its own accord; ``state`` alone does not say so: a job may be in the queue again after ``NODE_FAIL``, and
    one that waits or runs by accounting but is in the queue no more was lost, say by a controller that was killed.
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


def job_states(ids: Sequence[str]) -> dict[str, JobState]:
    """The states of jobs, by the ids that squeue shows; jobs that Slurm knows no more are absent.

    The queue says what is in it (with the jobs that ended less than ``MinJobAge`` ago), accounting says the rest.
    While the controller is silent accounting alone is asked, with a warning.

    Args:
        ids: of jobs ("123"), of whole arrays ("123", which gives all tasks) or of their tasks ("123_4").

    Raises:
        SlurmError: neither answers, or there is accounting and it does not answer.
    """
    try:
        queue = _queue(ids)  # first: who is absent from it has ended by the time that accounting is asked
    except SlurmError as error:
        past = allocations(ids)
        if past is None:
            raise
        warnings.warn(f"{error}; accounting alone was asked", stacklevel=2)
        return _states_of(past, gone=False)
    return {**_states_of(allocations(ids) or [], gone=True), **queue}


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs, arrays or array tasks; those that ended already are left as they are.

    Raises:
        SlurmError: the controller does not answer, or a job is someone else's.
    """
    for batch in batches(sorted(set(ids))):
        output("scancel", "--quiet", *batch)


def _queue(ids: Sequence[str]) -> dict[str, JobState]:
    wanted = set(ids)
    form = ",".join(f"{field}:|" for field in _FIELDS)
    found: dict[str, JobState] = {}
    for batch in batches(sorted({array_of(job) for job in ids})):
        try:
            text = output(
                "squeue", "--noheader", "--array", "--states=all", f"--Format={form}", f"--jobs={','.join(batch)}"
            )
        except SlurmError as error:
            if "Invalid job id" not in str(error):  # its answer if asked for one job only
                raise
            continue
        states = (_read(line) for line in text.splitlines())
        found |= {one.job: one for one in states if one.job in wanted or array_of(one.job) in wanted}
    return found


def _read(line: str) -> JobState:
    job, state, reason, nodes, restarts, status, submitted, started, ended, _ = line.split("|")
    over = state in ENDED_WELL | ENDED_BADLY
    return JobState(
        job=job, state=state, final=over, reason="" if reason == "None" else reason, nodes=nodes,
        restarts=int(restarts), exit=f"{int(status) >> 8}:{int(status) & 127}", submitted=unix_seconds(submitted),
        started=unix_seconds(started) if nodes else None,  # without nodes a forecast, or when it was cancelled
        ended=unix_seconds(ended) if over else None,  # till then its time limit
    )  # fmt: skip


def _states_of(past: Sequence[Allocation], *, gone: bool) -> dict[str, JobState]:
    """The newest incarnations as states; ``gone``: the queue has answered and does not hold them."""
    return {
        one.job: JobState(
            job=one.job, state=one.state, final=gone or one.state not in NOT_FINAL,
            reason="" if one.started else one.reason, nodes=one.nodes, restarts=one.incarnation, exit=one.exit,
            submitted=one.submitted, started=one.started, ended=one.ended,
        )
        for one in past
    }  # fmt: skip
