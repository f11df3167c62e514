"""Submit jobs as a profile says, by submitit: to this machine's processes or to Slurm's queue."""

import io
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from data_prep.errors import UserError
from data_prep.files import naming_full_disk
from data_prep.ownership import create_private_folder
from slurm.calls import FAILED, command_of, write_calls
from slurm.commands import SlurmError, read_config
from slurm.environment import environment_of_submission, errors_to, heeding_interrupts
from slurm.job import SIGNAL_SECONDS
from slurm.profile import Profile, nodes_of
from slurm.states import cancel

_REMEDY = "choose a folder that is yours alone"
_DEFAULT_MAX_ARRAY = 1001
_PATTERN = re.compile(r"\\|%\d*[AabJjNnstux%]")
"""What Slurm, or submitit, reads in the name of a log as something else."""
_UNREACHABLE = re.compile(r"contact slurm|communication|connection|timed out|try again", re.IGNORECASE)
# a job of which a process was killed goes back to the queue; one that failed by itself does not. SLURM_JOB_ID alone may
# be the id of a whole array
_TEARDOWN = (
    "code=$?",
    'if [ "$code" -eq 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]',
    'then scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"',
    "fi",
    'exit "$code"',
)


@dataclass(frozen=True)
class Job:
    """Processes of this machine, as a job of submitit."""

    _job: submitit.Job[None]

    def has_ended(self) -> bool:
        """Whether all its processes have; the debug executor runs them now."""
        return self._job.done()

    def cancel(self) -> None:
        """End it."""
        self._job.cancel()

    def fault(self) -> str:
        """Say, after it ended, why its first process that failed did; empty if it is not known that any did.

        Logs say it, so that nothing is unpickled.
        """
        ends = [(self._job.task(number).stderr() or "").splitlines()[-1:] for number in range(self._job.num_tasks)]
        return next((line.removeprefix(FAILED) for end in ends for line in end if line.startswith(FAILED)), "")


def submit(profile: Profile, folder: Path, tasks: int, call: Callable[..., None], *arguments: Any) -> Job:
    """Submit ``call(*arguments)`` to be run in each of ``tasks`` processes of this machine; logs go to ``folder``.

    Raises:
        UserError: the debug executor is asked for more than one process, or ``folder`` is not the user's own or has a
            name that is no text.
    """
    create_private_folder(folder, _REMEDY, trusts_group=True)  # the calls in it are known by their digest
    if profile.executor == "debug":
        if tasks > 1:
            raise UserError(
                f"{tasks} ranks were asked for, but the debug executor has one process: take another profile"
            )
        return Job(submitit.DebugExecutor(folder).submit(call, *arguments))
    _check_encodable(folder)
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=profile.minutes, tasks_per_node=tasks, gpus_per_node=profile.gpus_a_task * tasks
    )
    with environment_of_submission(profile), heeding_interrupts(), errors_to(folder / "controllers.log"):
        return Job(executor._submit_command(command_of(write_calls(folder, call, [arguments]))))


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

    def cpus_a_task(self, profile: Profile) -> int:
        """Return the cores of each process."""
        return profile.cpus_a_task if self.ranks else profile.cpus_a_worker

    def gpus(self, profile: Profile) -> int:
        """Return the GPUs of a job, or of a task of an array."""
        return profile.gpus_a_task * self.tasks if self.ranks or self.uses_gpu else 0


def enqueue(profile: Profile, folder: Path, call: Callable[..., None], request: JobRequest) -> list[str]:
    """Put ``call(*arguments)`` in Slurm's queue for each tuple of ``request.calls``; return the ids of jobs or arrays.

    An array that is longer than Slurm takes becomes several: all of them are in the queue, or none.

    Raises:
        UserError: the processes do not fill whole nodes, ``folder`` is not the user's own or has a name that is no
            text or a pattern of Slurm's, or Slurm refuses the job.
        SlurmError: Slurm is not installed, does not answer, or did not take back what it has.
    """
    create_private_folder(folder, _REMEDY, trusts_group=True)  # the calls in it are known by their digest
    _check_encodable(folder)
    _check_plain(folder)
    size = _max_array() if len(request.calls) > 1 else 1
    parts = [request.calls[first : first + size] for first in range(0, len(request.calls), size)]
    profile = profile_of(request, profile)
    parameters, jobs = _parameters(profile, request), list[str]()
    try:
        for part in parts:
            with environment_of_submission(profile), naming_full_disk(folder):
                jobs.append(_enqueue_part(folder, parameters, call, part))
    except BaseException as error:
        take_back(jobs, error)
        raise
    return jobs


def _enqueue_part(
    folder: Path, parameters: dict[str, Any], call: Callable[..., None], calls: Sequence[tuple[Any, ...]]
) -> str:
    """Submit one job or array; return its id."""
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:  # it looks for srun
        raise SlurmError("srun is not installed here") from error
    executor.update_parameters(**parameters)
    if len(calls) > 1:
        executor.parameters["map_count"] = len(calls)
    path = write_calls(folder, call, calls)
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it
            return executor._submit_command(command_of(path)).job_id
    except BaseException as error:
        path.unlink(missing_ok=True)  # a job that Slurm took although its answer was lost ends when it starts
        if isinstance(error, FailedJobError | FailedSubmissionError):
            raise _refusal(str(error)) from error
        if isinstance(error, FileNotFoundError):
            raise SlurmError("sbatch is not installed here") from error
        raise


def take_back(jobs: Sequence[str], cause: BaseException) -> None:
    """Cancel the jobs of a submission that failed by ``cause``.

    Raises:
        SlurmError: they could not be cancelled; the message names them, and begins with the cause.
    """
    try:
        cancel(jobs)
    except SlurmError as error:
        reason = str(cause) or "the submission was interrupted"
        raise SlurmError(
            f"{reason}; what was submitted before is still in the queue, as {error}: take it back with "
            f"`scancel {' '.join(jobs)}`"
        ) from cause


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


def _check_plain(folder: Path) -> None:
    """Refuse a folder in whose place Slurm would look for another one: its jobs would end without a log."""
    if match := _PATTERN.search(str(folder)):
        raise UserError(
            f"{folder} has {match.group()} in its name, which Slurm reads as something else in names of logs: rename it"
        )


def profile_of(request: JobRequest, profile: Profile) -> Profile:
    """Return the profile with the partition and the constraint of a request's jobs."""
    if profile.worker_partition is None or request.ranks or request.gpus(profile):
        return profile
    constraint = profile.worker_constraint or ""  # none, whatever SBATCH_CONSTRAINT says
    return profile.model_copy(update={"partition": profile.worker_partition, "constraint": constraint})


def _parameters(profile: Profile, request: JobRequest) -> dict[str, Any]:
    nodes = nodes_of(profile, request.tasks)
    cpus, gpus = request.cpus_a_task(profile), request.gpus(profile) // nodes
    variables = {**profile.environment, SIGNAL_SECONDS: str(profile.signal_seconds)}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    optional = {"partition": profile.partition, "account": profile.account, "qos": profile.qos,
              "constraint": profile.constraint, "gpus_per_node": gpus, "dependency": request.dependency}  # fmt: skip
    return {
        "job_name": request.name, "time": profile.minutes, "nodes": nodes, "ntasks_per_node": request.tasks // nodes,
        "cpus_per_task": cpus, "mem_per_cpu": f"{profile.memory_a_cpu}M", "array_parallelism": len(request.calls),
        "signal_delay_s": profile.signal_seconds, "stderr_to_stdout": True,
        "setup": [*exports, *profile.setup, "set +e"],  # for the teardown, which `set -e` would leave out
        # Slurm 22.05 to 23.02 does not pass the cores of a task on to srun
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "teardown": [line.format(restarts=profile.restarts) for line in _TEARDOWN],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
        **{name: value for name, value in optional.items() if value},
    }  # fmt: skip


def _max_array() -> int:
    """Ask Slurm how many tasks an array may have; a site where that is 0 takes no arrays, but single jobs."""
    config = read_config()
    limits = [config.get("MaxArraySize", _DEFAULT_MAX_ARRAY)]
    limits += re.findall(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    return max(1, min(map(int, limits)))


def task() -> tuple[int, int, int]:
    """Return rank, number of tasks and rank on this node, inside a submitted job."""
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks, environment.local_rank
