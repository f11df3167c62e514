"""Profiles: settings files that say where jobs run, and what a process of each kind gets."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from data_prep.errors import UserError
from data_prep.setting_types import expect
from data_prep.settings import Settings
from data_prep.settings_file import load_settings

_LOOK_SECONDS = 30
"""Slurm compares times with time limits so often, and signals by so much earlier."""
_PROFILES = Path(str(files("slurm"))) / "profiles"

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@-]*$"),
    expect("letters from a to z or A to Z, digits and any of _ . , @ -, the first a letter or digit"),
]
Feature = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_.,:&|!*()\[\]-]+$"),
    expect("letters from a to z or A to Z, digits and any of _ . , : & | ! * ( ) [ ] -"),
]
Variable = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    expect("letters from a to z or A to Z, digits and underscores, the first no digit"),
]


class Profile(Settings):
    """Settings that say where jobs run and what each of their processes gets."""

    executor: Literal["local", "debug", "slurm"] = Field(
        description="slurm: the whole graph is put in the queue; local, debug: submitit's own, followed to the end"
    )
    minutes: int = Field(600, ge=1, description="time limit of a job")
    gpus_a_task: int = Field(0, ge=0, description="GPUs of a rank, or of a process that judges networks")
    tasks_a_node: int = Field(4, ge=1, description="ranks that a node takes: its GPUs, where ranks have one each")
    cpus_a_task: int = Field(1, ge=1, description="cores of a rank")
    cpus_a_worker: int = Field(1, ge=1, description="cores of a process that prepares, judges or reports")
    memory_a_cpu: int = Field(4096, ge=256, description="MiB")
    partition: Name | None = None
    worker_partition: Name | None = Field(None, description="of jobs without GPUs; null: the same partition")
    account: Name | None = None
    qos: Name | None = None
    constraint: Feature | None = Field(
        None, description="features that nodes must have, but for jobs that go to worker_partition"
    )
    worker_constraint: Feature | None = Field(None, description="features that nodes of worker_partition must have")
    signal_seconds: int = Field(90, ge=1, description="before the time limit a job is asked to save itself")
    restarts: int = Field(10, ge=0, description="times that a job may put itself back in the queue")
    teraflops: float | None = Field(
        None, gt=0, description="a second, that a rank sustains in training: `plan` forecasts hours from it"
    )
    environment: dict[Variable, str] = Field({}, description="variables of all processes, such as NCCL's")
    setup: tuple[str, ...] = Field((), description="shell lines of each job before its processes start")

    @model_validator(mode="after")
    def _check_worker_constraint(self) -> Self:
        if self.worker_constraint is not None and self.worker_partition is None:
            raise ValueError(
                f"worker_constraint {self.worker_constraint} is of the nodes of worker_partition, which is not set: "
                "set it, or take constraint, which all jobs then have"
            )
        return self

    @model_validator(mode="after")
    def _check_signal(self) -> Self:
        if self.executor == "slurm" and self.signal_seconds + _LOOK_SECONDS >= 60 * self.minutes:
            raise ValueError(
                f"signal_seconds {self.signal_seconds} is too near to the time limit of {60 * self.minutes} seconds "
                "(minutes): each start would be asked to stop at once; lower it, or raise minutes"
            )
        return self


def load_profile(name: str) -> Profile:
    """Read a profile by its name in ``slurm/profiles``, or by the path of a YAML file.

    Raises:
        UserError: there is none, or it has an unknown key or a wrong value.
    """
    profiles = {path.stem: path for path in _PROFILES.glob("*.yaml")}
    path = profiles.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"profile {name!r} is neither a file nor one of: {', '.join(sorted(profiles))}")
    return load_settings(path, Profile)


def nodes_of(profile: Profile, tasks: int) -> int:
    """Count the nodes that so many ranks take.

    Raises:
        UserError: they do not fill whole nodes.
    """
    if tasks <= profile.tasks_a_node:
        return 1
    if tasks % profile.tasks_a_node:
        raise UserError(
            f"{tasks} ranks do not fill whole nodes of {profile.tasks_a_node}: take a multiple, or mend tasks_a_node "
            "in the profile"
        )
    return tasks // profile.tasks_a_node
