"""Inside a job of Slurm: where its processes meet, and how it goes back to the queue."""

import os
import time

import submitit

from slurm.commands import output

_FIRST_PORT, _PORTS = 12_000, 8_000  # below the ports that systems hand out
_END_SECONDS = 120


def process() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this node."""
    rank, size, local_rank = (int(os.environ[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "LOCALID"))
    return rank, size, local_rank


def share() -> tuple[int, int]:
    """Number of this task of an array, from 0, and how many there are."""
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
    number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) - first
    return number, int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))


def meeting_point(number: int = 0) -> str:
    """``tcp://host:port`` of the first node; the port is the job's own, as nodes may share an address.

    ``number``: of meetings of the same job, one after the other.
    """
    first = output("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    return f"tcp://{first}:{_FIRST_PORT + (int(os.environ['SLURM_JOB_ID']) + number) % _PORTS}"


def restarts() -> int:
    """How often this job was begun before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def requeue(*, leads: bool) -> None:
    """Put this job back in the queue, by its leading process, and wait to be ended for it.

    Raises:
        SlurmError: Slurm refuses.
        RuntimeError: it did not end this job.
    """
    if leads:
        output("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    await_end()


def await_end() -> None:
    """Wait to be ended by Slurm.

    Raises:
        RuntimeError: it does not happen.
    """
    time.sleep(_END_SECONDS)
    raise RuntimeError(f"this job stopped its work, but Slurm did not end it within {_END_SECONDS} s")


def forget_half_result() -> None:
    """Remove what a killed process left of its result, on which submitit would stumble at the end."""
    if "SUBMITIT_FOLDER" not in os.environ:
        return
    path = submitit.JobEnvironment().paths.result_pickle
    path.with_suffix(path.suffix + ".save_tmp").unlink(missing_ok=True)
