"""Slurm's own commands, run and read."""

import os
import subprocess
from collections.abc import Iterator, Sequence

TIMEOUT = 60.0  # seconds; squeue itself gives a silent controller up after 20 to 40
_BATCH = 1000  # ids in one command: an argument may have 128 KiB
_READABLE = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # Unix seconds; lists of array tasks in full


class SlurmError(RuntimeError):
    """A command of Slurm's failed; the message is one sentence: the command and what it said."""


def output(*command: str) -> str:
    """What a command prints; times in it are Unix seconds.

    Raises:
        SlurmError: it is not installed, fails, or takes longer than ``TIMEOUT``.
    """
    try:
        done = subprocess.run(
            command, env={**os.environ, **_READABLE}, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer in {TIMEOUT:.0f} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"nothing, and ended with exit code {done.returncode}"
        raise SlurmError(f"{command[0]} said: {said}")
    return done.stdout


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids, as many at a time as one command takes."""
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def array_of(job: str) -> str:
    """The id that ``sbatch`` printed: "123" of the array task "123_4", or of the job "123"."""
    return job.partition("_")[0]


def unix_seconds(text: str) -> float | None:
    """A time as squeue and sacct print it, or None for their several words for no time."""
    return float(text) if text.isdecimal() else None
