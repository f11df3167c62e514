"""The environment of a submission: what a job that is submitted from inside another must not inherit."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from slurm.profile import Profile

_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say where Slurm is."""
_OF_JOBS = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_", "SBATCH_")
_OF_RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
}
"""A user's defaults for sbatch, by the settings of a profile that go before them."""
_UNSAID = ("SBATCH_CLUSTERS", "SBATCH_RESERVATION", "SBATCH_WCKEY")
"""Defaults for what no profile says."""


def effective_setting(profile: Profile, name: Literal["account", "partition", "qos"]) -> str | None:
    """Return a setting of the profile, else the user's own default for sbatch."""
    setting: str | None = getattr(profile, name)
    return setting or os.environ.get(f"SBATCH_{name.upper()}")


@contextmanager
def environment_of_submission(profile: Profile) -> Iterator[None]:
    """Within the block, hide the variables of a job around this process, and sbatch's that go before the profile.

    ``salloc`` and ``srun --pty`` set memory, tasks and nodes of the interactive job, which would be the new job's.
    """
    hidden = {name: text for name, text in os.environ.items() if _is_hidden(name, profile)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_hidden(name: str, profile: Profile) -> bool:
    if name in _DEFAULTS:
        return getattr(profile, _DEFAULTS[name]) is not None
    return name not in (*_SITE, *_UNSAID) and (name.startswith(_OF_JOBS) or name in _OF_RANKS)


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Let processes that start within the block heed SIGINT, by which submitit ends its local jobs.

    A shell lets the background jobs of a script ignore it, and processes inherit that.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def errors_to(log: Path) -> Iterator[None]:
    """Let what processes that start within the block say of errors go to a file: submitit's show traces when ended."""
    before = os.dup(2)
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
