"""The cluster's partitions, as ``sinfo`` lists them, against what a profile asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.errors import UserError
from slurm.commands import SlurmError, output
from slurm.profile import Profile, nodes_of


@dataclass(frozen=True)
class _NodeGroup:
    """Nodes of one partition that have the same cores and GPUs: a line of ``sinfo``.

    ``minutes``: time limit of the partition's jobs, None without a limit; ``cpus`` and ``gpus`` are a node's.
    """

    partition: str
    default: bool
    minutes: int | None
    nodes: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class _Demand:
    """What one job asks for; ``cpus`` and ``gpus`` on each node."""

    partition: str | None
    minutes: int
    nodes: int
    cpus: int
    gpus: int


def check_partitions(profile: Profile, tasks: int) -> None:
    """Compare what a job of so many ranks asks for with the cluster's partitions; without ``sinfo`` do nothing.

    Raises:
        UserError: a partition is unknown, its time limit is shorter, or it has too few nodes, GPUs or cores.
    """
    try:
        groups = _node_groups()
    except SlurmError:
        return
    nodes, ranks = nodes_of(profile, tasks), min(tasks, profile.tasks_a_node)
    cpus, gpus = ranks * profile.cpus_a_task, ranks * profile.gpus_a_task
    _check(groups, _Demand(profile.partition, profile.minutes, nodes, cpus, gpus))
    if profile.worker_partition:
        _check(groups, _Demand(profile.worker_partition, profile.minutes, 1, profile.cpus_a_worker, 0))


def _check(groups: Sequence[_NodeGroup], demand: _Demand) -> None:
    partition = _partition(groups, demand.partition)
    name, limit = partition[0].partition, partition[0].minutes
    if limit is not None and demand.minutes > limit:
        raise UserError(f"minutes {demand.minutes} is over the time limit of partition {name}, {limit}")
    _check_size("GPUs", demand.gpus, max(group.gpus for group in partition), name)
    _check_size("cores", demand.cpus, max(group.cpus for group in partition), name)
    nodes = sum(group.nodes for group in partition)
    if demand.nodes > nodes:
        raise UserError(f"{demand.nodes} nodes are asked for, partition {name} has {nodes}")


def _check_size(unit: str, demand: int, limit: int, partition: str) -> None:
    if demand > limit:
        raise UserError(f"{demand} {unit} a node are asked for, those of {partition} have {limit}")


def _partition(groups: Sequence[_NodeGroup], name: str | None) -> list[_NodeGroup]:
    """Return the groups of nodes of the partition; ``name`` None: of the default one."""
    partition = [group for group in groups if group.partition == name or (name is None and group.default)]
    if not partition:
        names = ", ".join(sorted({group.partition for group in groups}))
        raise UserError(f"partition {name or '(default)'} is not one of: {names}")
    return partition


def _node_groups() -> list[_NodeGroup]:
    lines = output("sinfo", "-h", "-o", "%P|%l|%D|%c|%G").splitlines()
    return [_read_node_group(*line.split("|")) for line in lines]


def _read_node_group(name: str, limit: str, nodes: str, cpus: str, gres: str) -> _NodeGroup:
    gpus = [part.partition("(")[0].split(":")[-1] for part in gres.split(",") if part.startswith("gpu:")]
    return _NodeGroup(
        partition=name.rstrip("*"), default=name.endswith("*"), minutes=_minutes(limit), nodes=int(nodes),
        cpus=int(cpus.rstrip("+")), gpus=sum(map(int, gpus)),
    )  # fmt: skip


def _minutes(limit: str) -> int | None:
    """Read Slurm's ``[days-][hours:]minutes:seconds``; None without a limit."""
    if not limit[:1].isdigit():
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes
