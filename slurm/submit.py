"""Jobs handed to submitit as a profile says."""

import os
import shlex
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import submitit

from slurm.commands import array_of, output
from slurm.profile import Profile, ProfileError, nodes_of

_PRIVATE = 0o700
_DEFAULT_MAX_ARRAY = 1001
# a process that was killed, by whomever, takes its job back to the queue; what went wrong by itself does not
_TEARDOWN = (
    "code=$?",
    'if [ "$code" -eq 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]',
    'then scontrol requeue "$SLURM_JOB_ID"',
    "fi",
    'exit "$code"',
)


class Job(Protocol):
    """What is used of a submitit job."""

    def done(self) -> bool:
        """Whether it ended."""

    def cancel(self) -> None:
        """End it."""

    def exception(self) -> BaseException | None:
        """Why it failed, after it ended."""


def submit(profile: Profile, folder: Path, tasks: int, call: Callable[..., None], *arguments: Any) -> Job:
    """Submit ``call(*arguments)`` to be run in each of ``tasks`` processes of this machine; logs go to ``folder``.

    Raises:
        ProfileError: the debug executor is asked for more than one process, or ``folder`` is not the user's own.
    """
    own_folder(folder)
    if profile.executor == "debug":
        if tasks > 1:
            raise ProfileError(
                f"{tasks} ranks were asked for, but the debug executor has one process: take another profile"
            )
        return submitit.DebugExecutor(folder).submit(call, *arguments)
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=profile.minutes, tasks_per_node=tasks, gpus_per_node=profile.gpus_a_task * tasks
    )
    return executor.submit(call, *arguments)


def own_folder(folder: Path) -> None:
    """Make a folder for pickles and logs, or see that nobody else can write there: pickles are code.

    Raises:
        ProfileError: someone else can.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ProfileError(f"{folder} must belong to you and be writable by you alone: chmod 700 it, or remove it")


@dataclass(frozen=True)
class Wanted:
    """A job for the queue: ``calls`` of more than one are an array, each of ``tasks`` processes.

    ``after``: Slurm's dependency, such as ``afterok:12:13``. ``ranks``: whether its processes are ranks of one
    training or worker processes; ``uses_gpu``: whether worker processes take a GPU each.
    """

    name: str
    calls: Sequence[tuple[Any, ...]]
    tasks: int = 1
    ranks: bool = False
    uses_gpu: bool = False
    after: str = ""


def enqueue(profile: Profile, folder: Path, call: Callable[..., None], wanted: Wanted) -> list[str]:
    """Put ``call(*arguments)`` in Slurm's queue, for each arguments of ``wanted.calls``; return the jobs' ids.

    Arrays that are longer than Slurm takes become several.

    Raises:
        ProfileError: the processes do not fill whole nodes, or ``folder`` is not the user's own.
    """
    own_folder(folder)
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**_parameters(profile, wanted))
    if len(wanted.calls) == 1:
        return [executor.submit(call, *wanted.calls[0]).job_id]
    size = _max_array()
    parts = [wanted.calls[first : first + size] for first in range(0, len(wanted.calls), size)]
    return [array_of(executor.map_array(call, *zip(*part, strict=True))[0].job_id) for part in parts]


def _parameters(profile: Profile, wanted: Wanted) -> dict[str, Any]:
    nodes = nodes_of(profile, wanted.tasks)
    cpus = profile.cpus_a_task if wanted.ranks else profile.cpus_a_worker
    gpus = profile.gpus_a_task * wanted.tasks // nodes if wanted.ranks or wanted.uses_gpu else 0
    partition = profile.partition if gpus or wanted.ranks else profile.worker_partition or profile.partition
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    others = {"partition": partition, "account": profile.account, "qos": profile.qos,
              "constraint": profile.constraint, "gpus_per_node": gpus or None,
              "dependency": wanted.after or None}  # fmt: skip
    return {
        "job_name": wanted.name, "time": profile.minutes, "nodes": nodes, "ntasks_per_node": wanted.tasks // nodes,
        "cpus_per_task": cpus, "mem_per_cpu": f"{profile.memory_a_cpu}M", "array_parallelism": len(wanted.calls),
        "signal_delay_s": profile.signal_seconds, "stderr_to_stdout": True, "setup": [*exports, *profile.setup],
        # Slurm 22.05 to 23.02 does not pass the cores of a task on to srun
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "teardown": [line.format(restarts=profile.restarts) for line in _TEARDOWN],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
        **{name: value for name, value in others.items() if value is not None},
    }  # fmt: skip


def _max_array() -> int:
    """Tasks that an array may have."""
    found = [
        line.split("=")[1]
        for line in output("scontrol", "show", "config").splitlines()
        if line.startswith("MaxArraySize")
    ]
    return int(found[0]) if found else _DEFAULT_MAX_ARRAY


def task() -> tuple[int, int, int]:
    """Rank, number of tasks and rank on this node, inside a submitted job."""
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks, environment.local_rank
