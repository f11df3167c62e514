"""Submit jobs as a profile says, by submitit: to this machine's processes or to Slurm's queue."""

import io
import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from data_prep.errors import UserError
from slurm.commands import SlurmError, array_of, output
from slurm.environment import environment_of_submission, heeding_interrupts
from slurm.profile import Profile, nodes_of

_PRIVATE = 0o700
_DEFAULT_MAX_ARRAY = 1001
_UNREACHABLE = re.compile(r"contact slurm|communication|connection|timed out|try again", re.IGNORECASE)
# a job of which a process was killed goes back to the queue; one that failed by itself does not
_TEARDOWN = (
    "code=$?",
    'if [ "$code" -eq 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]',
    'then scontrol requeue "$SLURM_JOB_ID"',
    "fi",
    'exit "$code"',
)


class Job(Protocol):
    """Job of submitit: the methods that are used of it."""

    def done(self) -> bool:
        """Return whether it ended."""

    def cancel(self) -> None:
        """End it."""

    def exception(self) -> BaseException | None:
        """Return why it failed, after it ended."""


def submit(profile: Profile, folder: Path, tasks: int, call: Callable[..., None], *arguments: Any) -> Job:
    """Submit ``call(*arguments)`` to be run in each of ``tasks`` processes of this machine; logs go to ``folder``.

    Raises:
        UserError: the debug executor is asked for more than one process, or ``folder`` is not the user's own or has a
            name that is no text.
    """
    create_private_folder(folder)
    if profile.executor == "debug":
        if tasks > 1:
            raise UserError(
                f"{tasks} ranks were asked for, but the debug executor has one process: take another profile"
            )
        return submitit.DebugExecutor(folder).submit(call, *arguments)
    _check_encodable(folder)
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=profile.minutes, tasks_per_node=tasks, gpus_per_node=profile.gpus_a_task * tasks
    )
    with environment_of_submission(profile), heeding_interrupts():
        return executor.submit(call, *arguments)


def create_private_folder(folder: Path) -> None:
    """Create a folder for pickles and logs that only its user can write: who writes a pickle runs code.

    Raises:
        UserError: it exists, and someone else can write there; or it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    except OSError as error:
        raise UserError(f"{folder}, the folder for logs, cannot be created: {error.strerror}") from error
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{folder} must belong to you and be writable by you alone: chmod 700 it, or remove it")


@dataclass(frozen=True)
class JobRequest:
    """A job for Slurm's queue, or an array of jobs where ``calls`` holds arguments for several.

    Each has ``tasks`` processes. ``ranks``: they are the ranks of one training, else worker processes; ``uses_gpu``:
    whether worker processes take a GPU each. ``dependency``: Slurm's, such as ``afterok:12:13``.
    """

    name: str
    calls: Sequence[tuple[Any, ...]]
    tasks: int = 1
    ranks: bool = False
    uses_gpu: bool = False
    dependency: str = ""


def enqueue(profile: Profile, folder: Path, call: Callable[..., None], request: JobRequest) -> list[str]:
    """Put ``call(*arguments)`` in Slurm's queue for each tuple of ``request.calls``; return the ids of jobs or arrays.

    An array that is longer than Slurm takes becomes several.

    Raises:
        UserError: the processes do not fill whole nodes, ``folder`` is not the user's own or has a name that is no
            text, or Slurm refuses the job.
        SlurmError: Slurm is not installed, or does not answer.
    """
    create_private_folder(folder)
    _check_encodable(folder)
    with environment_of_submission(profile):
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it
                return _submit_array(profile, folder, call, request)
        except (FailedJobError, FailedSubmissionError) as error:
            raise _refusal(str(error)) from error
        except FileNotFoundError as error:
            raise SlurmError("sbatch is not installed here") from error


def _submit_array(profile: Profile, folder: Path, call: Callable[..., None], request: JobRequest) -> list[str]:
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**_parameters(profile, request))
    if len(request.calls) == 1:
        return [executor.submit(call, *request.calls[0]).job_id]
    size = _max_array()
    parts = [request.calls[first : first + size] for first in range(0, len(request.calls), size)]
    return [array_of(executor.map_array(call, *zip(*part, strict=True))[0].job_id) for part in parts]


def _refusal(message: str) -> Exception:
    """Return the error for what sbatch said: the user's, unless Slurm itself is out of reach."""
    sentence = f"Slurm took no job of this profile: {' '.join(message.split())}"
    return SlurmError(sentence) if _UNREACHABLE.search(message) else UserError(sentence)


def _check_encodable(folder: Path) -> None:
    """Refuse a folder that cannot be named in a script: its path holds bytes that are no UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{folder} has bytes in its name that are no UTF-8, and no job can be told it: rename it"
        ) from error


def _parameters(profile: Profile, request: JobRequest) -> dict[str, Any]:
    nodes = nodes_of(profile, request.tasks)
    cpus = profile.cpus_a_task if request.ranks else profile.cpus_a_worker
    gpus = profile.gpus_a_task * request.tasks // nodes if request.ranks or request.uses_gpu else 0
    partition = profile.partition if gpus or request.ranks else profile.worker_partition or profile.partition
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    optional = {"partition": partition, "account": profile.account, "qos": profile.qos,
              "constraint": profile.constraint, "gpus_per_node": gpus or None,
              "dependency": request.dependency or None}  # fmt: skip
    return {
        "job_name": request.name, "time": profile.minutes, "nodes": nodes, "ntasks_per_node": request.tasks // nodes,
        "cpus_per_task": cpus, "mem_per_cpu": f"{profile.memory_a_cpu}M", "array_parallelism": len(request.calls),
        "signal_delay_s": profile.signal_seconds, "stderr_to_stdout": True, "setup": [*exports, *profile.setup],
        # Slurm 22.05 to 23.02 does not pass the cores of a task on to srun
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "teardown": [line.format(restarts=profile.restarts) for line in _TEARDOWN],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
        **{name: value for name, value in optional.items() if value is not None},
    }  # fmt: skip


def _max_array() -> int:
    """Ask Slurm how many tasks an array may have."""
    config = output("scontrol", "show", "config").splitlines()
    sizes = [line.split("=")[1] for line in config if line.startswith("MaxArraySize")]
    return int(sizes[0]) if sizes else _DEFAULT_MAX_ARRAY


def task() -> tuple[int, int, int]:
    """Return rank, number of tasks and rank on this node, inside a submitted job."""
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks, environment.local_rank
