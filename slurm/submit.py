"""Jobs handed to submitit as a profile says."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol

import submitit
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_PROFILES = Path(str(files("slurm"))) / "profiles"


class ProfileError(ValueError):
    """A profile that does not exist, or a demand that it cannot meet; the message is one sentence."""


class Profile(BaseModel):
    """Where jobs run and what they get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    executor: Literal["local", "debug"] = Field(description="submitit's executor")
    minutes: int = Field(600, ge=1, description="time limit of a job")
    gpus_a_task: int = Field(0, ge=0)


class Job(Protocol):
    """What is used of a submitit job."""

    def done(self) -> bool:
        """Whether it ended."""

    def cancel(self) -> None:
        """End it."""

    def exception(self) -> BaseException | None:
        """Why it failed, after it ended."""


def load_profile(name: str) -> Profile:
    """A profile by its name in ``slurm/profiles``, or by the path of a YAML file.

    Raises:
        ProfileError: there is none, or it has an unknown key or a wrong value.
    """
    known = {path.stem: path for path in _PROFILES.glob("*.yaml")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ProfileError(f"profile {name!r} is neither a file nor one of: {', '.join(sorted(known))}")
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ProfileError(
            f"profile {path} is wrong (valid keys: {', '.join(Profile.model_fields)}): {reason}"
        ) from error


def submit(profile: Profile, folder: Path, tasks: int, call: Callable[..., None], *arguments: Any) -> Job:
    """Submit ``call(*arguments)`` to be run in each of ``tasks`` processes; logs go to ``folder``.

    Raises:
        ProfileError: the debug executor is asked for more than one process.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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


def task() -> tuple[int, int, int]:
    """Rank, number of tasks and rank on this node, inside a submitted job."""
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks, environment.local_rank
