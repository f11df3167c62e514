"""Run Slurm's own commands and read what they print."""

import os
import subprocess
from collections.abc import Collection, Iterator, Sequence

TIMEOUT = 60.0  # seconds; squeue itself gives up on a silent controller after 20 to 40
_CLOCKS = 600.0  # seconds by which clocks may differ, of which munge allows 300, and sbatch may take to answer
_BATCH = 10_000  # ids in one command: an argument may have 128 KiB
_OPTIONS = ("SACCT_", "SCANCEL_", "SINFO_", "SQUEUE_")
_READABLE = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # Unix seconds; lists of array tasks in full


class SlurmError(RuntimeError):
    """A command of Slurm failed; the message is one sentence: the command and its error output."""


def output(*command: str) -> str:
    """Run a command and return its stdout; times in it are Unix seconds.

    Raises:
        SlurmError: it is not installed, fails, or takes longer than ``TIMEOUT``.
    """
    try:
        process = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer in {TIMEOUT:.0f} s") from error
    if process.returncode:
        message = " ".join(process.stderr.split()) or f"nothing, and ended with exit code {process.returncode}"
        raise SlurmError(f"{command[0]} said: {message}")
    return process.stdout


def _environment() -> dict[str, str]:
    """Return this process's environment without the user's own options of Slurm's commands, such as filters."""
    return {**{name: text for name, text in os.environ.items() if not name.startswith(_OPTIONS)}, **_READABLE}


def read_config() -> dict[str, str]:
    """Ask the controller for the cluster's settings, by their names in ``slurm.conf``.

    Raises:
        SlurmError: it does not answer.
    """
    lines = (line.partition("=") for line in output("scontrol", "show", "config").splitlines())
    return {name.strip(): text.strip() for name, equals, text in lines if equals}


def cluster_name() -> str:
    """Ask the controller for the name of the cluster that is reached from here.

    Raises:
        SlurmError: it does not answer.
    """
    return read_config().get("ClusterName", "")


def check_cluster(names: Collection[str]) -> None:
    """Check that jobs which were submitted to clusters of these names are those of the cluster that is reached here.

    Raises:
        SlurmError: they are not.
    """
    try:
        reached = cluster_name() if names else ""
    except SlurmError:
        return  # who asks for the jobs hears it too, or asks accounting
    for name in names:
        if name != reached:
            raise SlurmError(f"the jobs were submitted on cluster {name}, and this machine reaches {reached} alone")


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into as many at a time as one command takes."""
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def array_of(job: str) -> str:
    """Return the id that ``sbatch`` printed: "123" for the array task "123_4" or the job "123"."""
    return job.partition("_")[0]


def unix_seconds(text: str) -> float | None:
    """Read a time as squeue and sacct print it; None for their several words for no time."""
    return float(text) if text.isdecimal() else None


def is_before(submitted: float | None, at: float) -> bool:
    """Whether a job is an earlier one than ours of the same id, submitted at ``at``: a cluster may use an id again."""
    return submitted is not None and submitted < at - _CLOCKS


def is_after(submitted: float | None, at: float) -> bool:
    """Whether a job is a later one than ours of the same id, submitted at ``at``, or ours that was put back since."""
    return submitted is not None and submitted > at + _CLOCKS
