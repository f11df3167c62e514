"""Profiles: where jobs run, and what a process of each kind gets."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from slurm.commands import SlurmError, output

_PROFILES = Path(str(files("slurm"))) / "profiles"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,-]*$")]
Feature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:&|!*()\[\]-]+$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ProfileError(ValueError):
    """A profile that does not exist, or a demand that it cannot meet; the message is one sentence."""


class Profile(BaseModel):
    """Where jobs run and what they get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    constraint: Feature | None = Field(None, description="features that nodes must have")
    signal_seconds: int = Field(90, ge=1, description="before the time limit a job is asked to save itself")
    restarts: int = Field(10, ge=0, description="times that a job may put itself back in the queue")
    teraflops: float | None = Field(
        None, gt=0, description="a second, that a rank sustains in training: `plan` forecasts hours from it"
    )
    environment: dict[Variable, str] = Field({}, description="variables of all processes, such as NCCL's")
    setup: tuple[str, ...] = Field((), description="shell lines of each job before its processes start")


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


def nodes_of(profile: Profile, tasks: int) -> int:
    """Nodes that so many ranks take.

    Raises:
        ProfileError: they do not fill whole nodes.
    """
    if tasks <= profile.tasks_a_node:
        return 1
    if tasks % profile.tasks_a_node:
        raise ProfileError(
            f"{tasks} ranks do not fill whole nodes of {profile.tasks_a_node}: take a multiple, or mend tasks_a_node "
            "in the profile"
        )
    return tasks // profile.tasks_a_node


def check_partitions(profile: Profile, tasks: int) -> None:
    """Compare what is asked for with what ``sinfo`` tells of the partitions, where it does.

    Raises:
        ProfileError: a partition is unknown, its time limit is shorter, or it has too few nodes, GPUs or cores.
    """
    known = _partitions()
    if known is None:
        return
    own = min(tasks, profile.tasks_a_node)
    _check(known, profile.partition, profile.minutes, nodes_of(profile, tasks), own * profile.gpus_a_task,
           own * profile.cpus_a_task)  # fmt: skip
    if profile.worker_partition:
        _check(known, profile.worker_partition, profile.minutes, 1, 0, profile.cpus_a_worker)


def _check(known: list[dict[str, Any]], name: str | None, minutes: int, nodes: int, gpus: int, cpus: int) -> None:
    """``known``: a row a partition and kind of node."""
    rows = [row for row in known if row["name"] == name or (name is None and row["default"])]
    if not rows:
        names = ", ".join(sorted({row["name"] for row in known}))
        raise ProfileError(f"partition {name or '(default)'} is not one of: {names}")
    limit = rows[0]["minutes"]
    if limit is not None and minutes > limit:
        raise ProfileError(f"minutes {minutes} is over the time limit of partition {rows[0]['name']}, {limit}")
    for what, key, wanted in (("GPUs", "gpus", gpus), ("cores", "cpus", cpus)):
        most = max(row[key] for row in rows)
        if wanted > most:
            raise ProfileError(f"{wanted} {what} a node are asked for, those of {rows[0]['name']} have {most}")
    there = sum(row["nodes"] for row in rows)
    if nodes > there:
        raise ProfileError(f"{nodes} nodes are asked for, partition {rows[0]['name']} has {there}")


def _partitions() -> list[dict[str, Any]] | None:
    """What sinfo tells; None where it does not answer."""
    try:
        told = output("sinfo", "-h", "-o", "%P|%l|%D|%c|%G")
    except SlurmError:
        return None
    return [_partition(*line.split("|")) for line in told.splitlines()]


def _partition(name: str, limit: str, nodes: str, cpus: str, gres: str) -> dict[str, Any]:
    gpus = [part.partition("(")[0].split(":")[-1] for part in gres.split(",") if part.startswith("gpu:")]
    return {"name": name.rstrip("*"), "default": name.endswith("*"), "minutes": _minutes(limit), "nodes": int(nodes),
            "cpus": int(cpus.rstrip("+")), "gpus": sum(map(int, gpus))}  # fmt: skip


def _minutes(limit: str) -> int | None:
    """Of Slurm's [days-][hours:]minutes:seconds; None without a limit."""
    if not limit[:1].isdigit():
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes
