"""What a run's jobs were given, and what for: GPU-hours and core-hours of each stage and training."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import Submission, Submissions
from slurm.accounting import Allocation, allocations
from slurm.commands import SlurmError, array_of

_HOUR = 3600.0
_KINDS = ("training", "validation", "checkpoint", "start")
COLUMNS = ("stage", "item", "gpus", "starts", "waited_hours", "gpu_hours", "core_hours",
           *(f"{kind}_gpu_hours" for kind in _KINDS), "lost_gpu_hours", "bill", "source")  # fmt: skip


def accounting_table(folder: RunFolder, graph: Graph) -> pd.DataFrame:
    """A row a training and a stage: what its jobs waited, what they were allocated, and what for.

    ``gpu_hours`` are those of every start of the job; of them ``training``, ``validation``, ``checkpoint`` and
    ``start`` (of the trainer) are in the record that was kept, and ``lost`` is the rest: the start of the processes
    and their meeting, the end of the job, and work that was lost with a node; ``bill`` is in the currency of the
    settings' ``budget``, where that has a price. Hours are Slurm's where ``source`` is
    ``sacct``. Where it cannot be asked they stay those of the last report; else they are ``markers``: the run's own
    records, of each item's last start alone.
    """
    groups: dict[tuple[str, str], list[Submission]] = {}
    for one in Submissions(folder.root).read():
        alone = one.stage in graph.stages and graph.stages[one.stage].uses_ranks and len(one.items) == 1
        groups.setdefault((one.stage, one.items[0] if alone else ""), []).append(one)
    jobs = [job for made in groups.values() for one in made for job in one.jobs]
    told, earlier = _told(jobs), folder.report / "accounting.csv"
    if told is None and earlier.exists():
        print(f"the hours are those of {earlier}", flush=True)
        return pd.read_csv(earlier).fillna({"item": ""})
    rows = [_row(folder, graph, *name, made, told) for name, made in groups.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def gpu_hours_given(folder: RunFolder, graph: Graph) -> float:
    """GPU-hours that were allocated to the run so far."""
    return float(accounting_table(folder, graph)["gpu_hours"].sum())


def _told(jobs: Sequence[str]) -> list[Allocation] | None:
    """What Slurm counted, where it can be asked."""
    try:
        return allocations(jobs) if jobs else []
    except SlurmError as error:
        print(error, flush=True)
        return None


def _row(
    folder: RunFolder, graph: Graph, stage: str, item: str, made: Sequence[Submission],
    told: Sequence[Allocation] | None,
) -> dict[str, Any]:  # fmt: skip
    gpus, jobs = made[-1].gpus, {job for one in made for job in one.jobs}
    given: dict[str, Any] = (
        {"gpu_hours": _own_seconds(graph, stage, item) * gpus / _HOUR, "source": "markers"}
        if told is None
        else _given([one for one in told if array_of(one.job) in jobs])
    )
    used = {f"{kind}_gpu_hours": seconds * gpus / _HOUR for kind, seconds in _kept_seconds(folder, item).items()}
    rest = {"lost_gpu_hours": given["gpu_hours"] - sum(used.values())} if used else {}
    bill = folder.settings.budget.cost(given["gpu_hours"])
    return {"stage": stage, "item": item, "gpus": gpus, **given, **used, **rest, "bill": bill}


def _given(told: Sequence[Allocation]) -> dict[str, Any]:
    """What Slurm counted."""
    return {
        "starts": sum(one.started is not None for one in told),
        "waited_hours": sum(one.waited or 0.0 for one in told) / _HOUR,
        "gpu_hours": sum(one.gpu_seconds for one in told) / _HOUR,
        "core_hours": sum(one.seconds * one.cpus for one in told) / _HOUR,
        "source": "sacct",
    }


def _own_seconds(graph: Graph, stage: str, item: str) -> float:
    """Seconds of the items, by their markers."""
    if stage not in graph.stages:
        return 0.0
    items = [item] if item else graph.stages[stage].items()
    return sum(marker.seconds for one in items if (marker := graph.marker((stage, one))))


def _kept_seconds(folder: RunFolder, item: str) -> Mapping[str, float]:
    """Seconds of a training by kind; nothing of what is none, or did not end."""
    path = folder.cell(item) / "result.json"
    if not item or not path.exists():
        return {}
    seconds = json.loads(path.read_text())["seconds"]
    return {kind: seconds[kind] for kind in _KINDS}
