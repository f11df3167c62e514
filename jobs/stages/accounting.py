"""GPU-hours and core-hours that were allocated to a run's jobs, and what the trainings used them for."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from data_prep.log import logger
from jobs.engine.graph import Graph
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import Submission, Submissions, allocations_of
from pipeline.report.tables import records
from slurm.accounting import Allocation
from slurm.commands import SlurmError, array_of

_HOUR = 3600.0
_SACCT, _BY_REQUEST, _MARKERS = "sacct", "sacct, GPUs by request", "markers"
_TEXTS = ("stage", "item", "source")
_KINDS = ("training", "validation", "checkpoint", "start")
COLUMNS = ("stage", "item", "gpus", "starts", "waited_hours", "gpu_hours", "core_hours",
           *(f"{kind}_gpu_hours" for kind in _KINDS), "lost_gpu_hours", "bill", "source")  # fmt: skip


def accounting_table(folder: RunFolder, graph: Graph) -> pd.DataFrame:
    """Tabulate what the jobs of a run waited and were allocated: a row for each training and each other stage.

    ``gpu_hours`` counts every start of the jobs. Of a training that ended, its ``training``, ``validation``,
    ``checkpoint`` and ``start`` hours are those of its record; ``lost`` is the rest: the start of the processes, their
    rendezvous, the end of the job, and work that was lost with a node. ``lost`` is empty where fewer hours were counted
    than that record has. ``bill`` is in the currency of the settings' ``budget``, if that has a price.

    ``source`` is ``sacct``; ``sacct, GPUs by request`` where Slurm does not count GPUs, as by its default: those that
    the jobs asked for, times Slurm's seconds; or ``markers`` where it cannot be asked: the hours of each item's last
    start alone. Rows that Slurm counted for an earlier report go before the latter.
    """
    groups = _group_submissions(folder, graph)
    allocated = _ask_slurm([submission for submissions in groups.values() for submission in submissions])
    earlier = _read_counted(folder) if allocated is None else {}
    rows = [
        earlier.get(group) or _row(folder, graph, *group, submissions, allocated)
        for group, submissions in groups.items()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.assign(bill=table["gpu_hours"].map(folder.settings.budget.cost))


def _group_submissions(folder: RunFolder, graph: Graph) -> dict[tuple[str, str], list[Submission]]:
    """Group the submissions by stage and, where the jobs are of one training alone, by item, else by ""."""
    groups = defaultdict[tuple[str, str], list[Submission]](list)
    for submission in Submissions(folder.root).read():
        stage, items = submission.stage, submission.items
        has_row = stage in graph.stages and graph.stages[stage].uses_ranks and len(items) == 1
        groups[stage, items[0] if has_row else ""].append(submission)
    return groups


def _ask_slurm(submissions: Sequence[Submission]) -> list[Allocation] | None:
    """Ask for the allocations of jobs; None where Slurm does not answer or does not count, or is another cluster's."""
    try:
        return allocations_of(submissions)
    except SlurmError as error:
        logger.warning(error)
        return None


def _read_counted(folder: RunFolder) -> dict[tuple[str, str], dict[str, Any]]:
    """Read the rows of the earlier report that Slurm counted, which it may not tell again, by stage and item."""
    path = folder.report / "accounting.csv"
    if not path.exists():
        return {}
    numbers = {name: "" for name in COLUMNS if name not in _TEXTS}  # an item may be called NA
    table = pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False, na_values=numbers)
    rows = records(table[table["source"].str.startswith(_SACCT)])
    if rows:
        logger.info(f"hours that Slurm counted before are those of {path}")
    return {(row["stage"], row["item"]): row for row in rows}


def _row(
    folder: RunFolder, graph: Graph, stage: str, item: str, submissions: Sequence[Submission],
    allocated: Sequence[Allocation] | None,
) -> dict[str, Any]:  # fmt: skip
    gpus = submissions[-1].gpus
    hours: dict[str, Any] = (
        {"gpu_hours": _marked_seconds(folder, graph, stage, item) * gpus / _HOUR, "source": _MARKERS}
        if allocated is None
        else _sum_hours(submissions, allocated)
    )
    recorded = _recorded_seconds(graph, stage, item)
    used = {f"{kind}_gpu_hours": seconds * gpus / _HOUR for kind, seconds in recorded.items()}
    lost = {"lost_gpu_hours": _lost_hours(f"{stage}/{item}", hours, sum(used.values()))} if used else {}
    return {"stage": stage, "item": item, "gpus": gpus, **hours, **used, **lost}


def _lost_hours(training: str, hours: Mapping[str, Any], used: float) -> float:
    """Return the allocated hours that a training did not use; NaN if fewer were counted than it used."""
    lost = float(hours["gpu_hours"]) - used
    if lost >= 0:
        return lost
    if hours["source"] != _MARKERS:
        logger.warning(
            f"{training}: Slurm's accounting counts {hours['gpu_hours']:.4f} GPU-hours, the training's own record "
            f"{used:.4f}: Slurm forgets a start that its controller had not saved when it was killed"
        )
    return math.nan


def _sum_hours(submissions: Sequence[Submission], allocated: Sequence[Allocation]) -> dict[str, Any]:
    """Sum what was allocated to jobs; where Slurm shows no GPU of a submission, count those that it asked for."""
    pairs = [(submission, x) for submission in submissions for x in allocated if array_of(x.job) in submission.jobs]
    counted = {submission for submission, allocation in pairs if allocation.gpus}
    requested = sum(submission.gpus * x.seconds for submission, x in pairs if submission not in counted)
    ours = [allocation for _, allocation in pairs]
    return {
        "starts": sum(allocation.started is not None for allocation in ours),
        "waited_hours": sum(allocation.waited or 0.0 for allocation in ours) / _HOUR,
        "gpu_hours": (requested + sum(allocation.gpu_seconds for allocation in ours)) / _HOUR,
        "core_hours": sum(allocation.seconds * allocation.cpus for allocation in ours) / _HOUR,
        "source": _BY_REQUEST if requested else _SACCT,
    }


def _marked_seconds(folder: RunFolder, graph: Graph, stage: str, item: str) -> float:
    """Sum the seconds in the markers of an item, or of all of a stage: also of a search, or of former settings."""
    markers = graph.stages[stage].markers if stage in graph.stages else Markers(folder.root, stage)
    items = [item] if item else markers.items()
    return sum(marker.seconds for item in items if (marker := markers.read(item)))


def _recorded_seconds(graph: Graph, stage: str, item: str) -> Mapping[str, float]:
    """Read the seconds of a training by kind; empty for other items and for a training that did not end."""
    marker = graph.marker((stage, item)) if item else None
    seconds = marker.result["seconds"] if marker and marker.state == "done" else {}
    return {kind: seconds[kind] for kind in _KINDS if seconds}
