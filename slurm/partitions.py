"""The cluster's partitions, as ``sinfo`` lists them, against what a profile asks for."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from data_prep.errors import UserError
from data_prep.log import describe_count
from slurm.commands import output
from slurm.environment import effective_setting
from slurm.profile import Profile, nodes_of
from slurm.submit import JobRequest, profile_of

_CLOSED = ("inact", "drain")  # partitions in these states take no jobs; one that is down keeps them waiting


@dataclass(frozen=True)
class _NodeGroup:
    """Nodes of one partition that have the same cores, memory and GPUs: a line of ``sinfo``.

    ``minutes``: time limit of the partition's jobs, None without a limit; ``cpus``, ``memory`` (MiB) and ``gpus`` are a
    node's.
    """

    partition: str
    default: bool
    state: str
    minutes: int | None
    nodes: int
    cpus: int
    memory: int
    gpus: int


@dataclass(frozen=True)
class _Demand:
    """What one job asks for; ``cpus``, ``memory`` (MiB) and ``gpus`` on each node."""

    partition: str | None
    minutes: int
    nodes: int
    cpus: int
    memory: int
    gpus: int


def check_partitions(profile: Profile, requests: Iterable[JobRequest]) -> None:
    """Compare what jobs of a profile ask for with the cluster's partitions.

    Raises:
        UserError: a partition is unknown or closed, its time limit is shorter, or it has too few nodes that are large
            enough.
        SlurmError: Slurm does not answer.
    """
    groups = _node_groups()
    for request in requests:
        _check(groups, _demand(profile_of(request, profile), request))


def _demand(profile: Profile, request: JobRequest) -> _Demand:
    nodes = nodes_of(profile, request.tasks)
    cpus = request.tasks // nodes * request.cpus_a_task(profile)
    return _Demand(
        partition=effective_setting(profile, "partition"), minutes=profile.minutes, nodes=nodes, cpus=cpus,
        memory=cpus * profile.memory_a_cpu, gpus=request.gpus(profile) // nodes,
    )  # fmt: skip


def _check(groups: Sequence[_NodeGroup], demand: _Demand) -> None:
    """Check a demand against its partition; of several, of which Slurm takes one that can, the last is named."""
    names = demand.partition.split(",") if demand.partition else [None]
    for name in names[:-1]:
        with suppress(UserError):
            return _check_partition(_partition(groups, name), demand)
    return _check_partition(_partition(groups, names[-1]), demand)


def _check_partition(partition: Sequence[_NodeGroup], demand: _Demand) -> None:
    name, limit = partition[0].partition, partition[0].minutes
    if partition[0].state in _CLOSED:
        raise UserError(f"partition {name} takes no jobs at the moment: its state is {partition[0].state}")
    if limit is not None and demand.minutes > limit:
        raise UserError(f"minutes {demand.minutes} is over the time limit of partition {name}, {limit}")
    _check_size(describe_count(demand.gpus, "GPU"), demand.gpus, [group.gpus for group in partition], name)
    _check_size(describe_count(demand.cpus, "core"), demand.cpus, [group.cpus for group in partition], name)
    _check_size(f"{demand.memory} MiB (cores x memory_a_cpu)", demand.memory, [x.memory for x in partition], name)
    nodes = sum(group.nodes for group in partition if _is_enough(group, demand))
    if demand.nodes > nodes:
        size = f"{describe_count(demand.cpus, 'core')}, {demand.memory} MiB and {describe_count(demand.gpus, 'GPU')}"
        raise UserError(f"asked for: {describe_count(demand.nodes, 'node')} of {size}; partition {name} has {nodes}")


def _check_size(size: str, demand: int, limits: Sequence[int], partition: str) -> None:
    if demand > max(limits):
        raise UserError(f"asked for: {size} a node; those of {partition} have {max(limits)}")


def _is_enough(group: _NodeGroup, demand: _Demand) -> bool:
    return group.cpus >= demand.cpus and group.memory >= demand.memory and group.gpus >= demand.gpus


def _partition(groups: Sequence[_NodeGroup], name: str | None) -> list[_NodeGroup]:
    """Return the groups of nodes of the partition; ``name`` None: of the default one."""
    partition = [group for group in groups if group.partition == name or (name is None and group.default)]
    if not partition:
        names = ", ".join(sorted({group.partition for group in groups}))
        raise UserError(f"partition {name or '(default)'} is not one of: {names}")
    return partition


def _node_groups() -> list[_NodeGroup]:
    # also hidden ones, which take jobs; of one that is for others sbatch says so
    lines = output("sinfo", "--all", "-h", "--exact", "--noconvert", "-o", "%P|%a|%l|%D|%c|%m|%G").splitlines()
    return [_read_node_group(*line.split("|")) for line in lines]


def _read_node_group(name: str, state: str, limit: str, nodes: str, cpus: str, memory: str, gres: str) -> _NodeGroup:
    gpus = [part.partition("(")[0].split(":")[-1] for part in gres.split(",") if part.startswith("gpu:")]
    return _NodeGroup(
        partition=name.rstrip("*"), default=name.endswith("*"), state=state, minutes=_minutes(limit), nodes=int(nodes),
        cpus=int(cpus.rstrip("+")), memory=int(memory.rstrip("+")), gpus=sum(map(int, gpus)),
    )  # fmt: skip


def _minutes(limit: str) -> int | None:
    """Read Slurm's ``[days-][hours:]minutes:seconds``; None without a limit."""
    if not limit[:1].isdigit():
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes
