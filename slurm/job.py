"""Inside a job of Slurm: its ranks, their rendezvous, and its way back to the queue."""

import os
import re
import signal
import time

from data_prep.errors import UserError
from slurm.commands import SlurmError, output

_FIRST_PORT, _PORTS = 12_000, 8_000  # below the ports that systems hand out
USED_UP = os.EX_TEMPFAIL
"""Exit code of a job that was stopped and may not go back to the queue once more."""
BACK_TO_QUEUE = "this job goes back to the queue"
"""Begins the line in the log of a job that was asked to stop; ``because`` and the cause follow."""
SIGNAL_SECONDS = "QUARTERDOSE_SIGNAL_SECONDS"
"""Name of the variable that tells a job how long before its time limit it is asked to stop."""
_NEAR_SECONDS = 15 * 60  # before the time limit; or a minute more than those: Slurm's signal may come so much earlier
_END_SECONDS = 120  # for Slurm to end a job that stopped its work


def process() -> tuple[int, int, int]:
    """Return rank, number of processes and rank on this node.

    Raises:
        UserError: this is no process of a job.
    """
    names = [f"SLURM_{name}" for name in ("PROCID", "NTASKS", "LOCALID")]
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(f"{missing[0]} is not set: a training's ranks are started by srun within a job of Slurm")
    rank, size, local_rank = (int(os.environ[name]) for name in names)
    return rank, size, local_rank


def share() -> tuple[int, int]:
    """Return the number of this array task, from 0, and how many tasks the array has.

    Raises:
        UserError: the array's tasks are not numbered one after the other, so that nobody knows their shares.
    """
    first, last, number, count = (
        int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("MIN", "0"), ("MAX", "0"), ("ID", "0"), ("COUNT", "1"))
    )
    if last - first != count - 1:
        raise UserError(
            f"this array has {count} tasks with numbers from {first} to {last}, and shares need all in between: submit "
            f"it with --array=0-{count - 1}; items that are done are left alone"
        )
    return number - first, count


def rendezvous_address(number: int = 0) -> str:
    """Return ``tcp://host:port`` for the ranks to meet at: the first node, and a port by the job's id.

    Two jobs do not share a port, as their nodes may share an address. ``number``: of the rendezvous within the job,
    if it has several one after the other.
    """
    host = output("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    return f"tcp://{host}:{_FIRST_PORT + (int(os.environ['SLURM_JOB_ID']) + number) % _PORTS}"


def restarts() -> int:
    """Return how often this job was requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def describe_stop(number: int | None) -> str:
    """Say why Slurm asked this job to stop; ``number``: the signal that came, if this process got it."""
    if number == signal.SIGTERM:
        return "it was cancelled or preempted"
    try:
        job = dict(re.findall(r"(\w+)=(\S*)", output("scontrol", "show", "job", job_id())))
    except SlurmError:
        return "its time limit came near, or its nodes were taken"
    if job.get("PreemptTime", "None") != "None":
        return "its nodes were taken for another job"
    end, near = job.get("EndTime", ""), max(_NEAR_SECONDS, 60 + int(os.environ.get(SIGNAL_SECONDS, "0")))
    return "its time limit came near" if end.isdecimal() and int(end) - time.time() < near else "of a signal"


def job_id() -> str:
    """Return this job's id as squeue shows it: "12", of an array "12_3"; empty outside of Slurm.

    ``SLURM_JOB_ID`` is a number, which of one task is the array's own: commands of Slurm take it for all tasks.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def start_of_job() -> str:
    """Name this start of this job: "12.1" after the first requeue, of an array "12_3.1"; empty outside of Slurm."""
    job = job_id()
    return f"{job}.{restarts()}" if job else ""


def requeue(*, leads: bool) -> None:
    """Put this job back in the queue, which only its leading process does, and wait until Slurm ends it.

    Raises:
        SlurmError: Slurm refuses.
        RuntimeError: Slurm did not end this job.
    """
    if leads:
        output("scontrol", "requeue", job_id())
    await_end()


def await_end() -> None:
    """Wait until Slurm ends this job.

    Raises:
        RuntimeError: Slurm did not end it.
    """
    time.sleep(_END_SECONDS)
    raise RuntimeError(f"this job stopped its work, but Slurm did not end it within {_END_SECONDS} s")
