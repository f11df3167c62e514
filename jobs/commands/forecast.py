"""What the trainings of a run will take, before they are submitted, against what they may."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from data_prep.errors import UserError
from data_prep.split import Split
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.stages.accounting import gpu_hours_given
from jobs.stages.train import CellStage
from pipeline.settings.cells import CellSettings
from pipeline.training.arithmetic import whole
from slurm.profile import Profile

_HOUR = 3600.0


@dataclass(frozen=True)
class Forecast:
    """Hours of one training from its first step to its last, and of all its GPUs together."""

    cell: str
    hours: float
    gpu_hours: float


def forecast(folder: RunFolder, graph: Graph, profile: Profile) -> list[Forecast]:
    """That of each training that is not done yet.

    It has as many operations as its steps and validations; a rank does as many of them a second as in the run's
    trainings of as many dimensions that are done, else as the profile's ``teraflops`` say.

    Raises:
        UserError: neither tells the rate, or the number of training volumes is not known yet.
    """
    todo = [cell for stage, cell in _cells(graph) if not _done(stage, cell)]
    volumes = _volumes(folder)
    measured = {dims: list(_rates(folder, graph, dims, volumes)) for dims in (2, 3)}
    return [_forecast(folder, cell, profile, measured[cell.dims], volumes) for cell in todo]


def _cells(graph: Graph) -> Iterator[tuple[CellStage, CellSettings]]:
    for stage in graph.stages.values():
        if isinstance(stage, CellStage):
            yield from ((stage, cell) for cell in stage.cells.values())


def _done(stage: CellStage, cell: CellSettings) -> bool:
    marker = stage.markers.read(cell.id)
    return marker is not None and marker.state == "done"


def _volumes(folder: RunFolder) -> int | None:
    """Those of the training part, once the scans are split."""
    path = folder.data / "split.json"
    return len(Split.from_json(json.loads(path.read_text())).parts["train"]) if path.exists() else None


def _rates(folder: RunFolder, graph: Graph, dims: int, volumes: int | None) -> Iterator[float]:
    """Operations a second of a rank, in each training that is done."""
    for stage, cell in _cells(graph):
        if cell.dims == dims and _done(stage, cell):
            seconds = json.loads((folder.cell(cell.id) / "result.json").read_text())["seconds"]
            yield _operations(cell, volumes) / cell.ranks / (seconds["training"] + seconds["validation"])


def _operations(cell: CellSettings, volumes: int | None) -> float:
    if volumes is None and cell.training.samples is None:
        raise UserError(
            f"the steps of cell {cell.id} are not known before the scans are split: run `quarterdose prepare` first, "
            "or set training.samples"
        )
    return whole(cell, volumes or 0)


def _forecast(
    folder: RunFolder, cell: CellSettings, profile: Profile, measured: Sequence[float], volumes: int | None
) -> Forecast:
    if not measured and profile.teraflops is None:
        raise UserError(
            f"no {cell.dims}D training of {folder.root} is done that would tell the rate of a rank: set teraflops in "
            "the profile"
        )
    rate = median(measured) if measured else 1e12 * (profile.teraflops or 0.0)
    hours = _operations(cell, volumes) / cell.ranks / rate / _HOUR
    return Forecast(cell.id, hours, hours * cell.ranks * profile.gpus_a_task)


def check_budget(folder: RunFolder, graph: Graph, profile: Profile) -> None:
    """Compare the forecast, and the GPU-hours that were given so far, with the run's ``budget.gpu_hours``.

    Raises:
        UserError: they are more, or cannot be forecast.
    """
    most = folder.settings.budget.gpu_hours
    if most is None or not profile.gpus_a_task:
        return
    ahead, given = sum(one.gpu_hours for one in forecast(folder, graph, profile)), gpu_hours_given(folder, graph)
    if ahead + given > most:
        raise UserError(
            f"budget.gpu_hours is {most:g}, but trainings still to be run take {ahead:.3g} GPU-hours by the forecast "
            f"of `quarterdose plan`, and {given:.3g} were given so far: take fewer cells, epochs or samples, or mend it"
        )
