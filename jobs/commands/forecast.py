"""Hours that the trainings of a run will take, forecast before they are submitted, against the budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from data_prep.errors import UserError
from jobs.engine.graph import Graph
from jobs.engine.outputs import check_outputs
from jobs.engine.run_folder import RunFolder
from jobs.stages.accounting import allocated_gpu_hours
from jobs.stages.prepare import read_split
from jobs.stages.train import CellStage
from pipeline.settings.cells import CellSettings
from pipeline.training.arithmetic import count_operations
from slurm.profile import Profile

_HOUR = 3600.0


@dataclass(frozen=True)
class Forecast:
    """Hours of one training from its first step to its last; ``gpu_hours``: times its GPUs."""

    cell: str
    hours: float
    gpu_hours: float


def forecast(folder: RunFolder, graph: Graph, profile: Profile) -> list[Forecast]:
    """Forecast the hours of each training that is not done.

    Operations of its steps and validations, divided by a rate: the median of the run's finished trainings with the
    same network, else the profile's ``teraflops``.

    Raises:
        UserError: there is no rate, or the number of training volumes is not known yet.
    """
    pending = [cell for stage, cell in _cells(graph) if not stage.markers.is_done(cell.id)]
    volumes = _volumes(graph)
    rates = {network: list(_rates(graph, network, volumes)) for network in folder.settings.networks}
    return [_forecast(folder, cell, profile, rates[cell.network], volumes) for cell in pending]


def _cells(graph: Graph) -> Iterator[tuple[CellStage, CellSettings]]:
    for stage in graph.stages.values():
        if isinstance(stage, CellStage):
            yield from ((stage, cell) for cell in stage.cells.values())


def _volumes(graph: Graph) -> int | None:
    """Count the training volumes; None before the scans are split."""
    stage = graph.stages["split"]
    if not stage.markers.is_done("split"):
        return None
    check_outputs([(stage, "split")])
    return len(read_split(stage).parts["train"])


def _rates(graph: Graph, network: str, volumes: int | None) -> Iterator[float]:
    """Yield a rank's operations per second in each finished training of a network."""
    for stage, cell in _cells(graph):
        marker = stage.markers.read(cell.id)
        if cell.network == network and marker and marker.state == "done":
            seconds = marker.result["seconds"]
            yield _operations(cell, volumes) / cell.ranks / (seconds["training"] + seconds["validation"])


def _operations(cell: CellSettings, volumes: int | None) -> float:
    if volumes is None and cell.training.samples is None:
        raise UserError(
            f"the steps of cell {cell.id} are not known before the scans are split: run `quarterdose prepare` first, "
            "or set training.samples"
        )
    return count_operations(cell, volumes or 0)


def _forecast(
    folder: RunFolder, cell: CellSettings, profile: Profile, rates: Sequence[float], volumes: int | None
) -> Forecast:
    if not rates and profile.teraflops is None:
        raise UserError(
            f"no training of network {cell.network} in {folder.root} is done that would tell the rate of a rank: set "
            "teraflops in the profile"
        )
    rate = median(rates) if rates else 1e12 * (profile.teraflops or 0.0)
    hours = _operations(cell, volumes) / cell.ranks / rate / _HOUR
    return Forecast(cell.id, hours, hours * cell.ranks * profile.gpus_a_task)


def check_budget(folder: RunFolder, graph: Graph, profile: Profile) -> None:
    """Compare the forecast plus the GPU-hours allocated so far with the run's ``budget.gpu_hours``.

    Raises:
        UserError: they are more, or cannot be forecast.
    """
    limit = folder.settings.budget.gpu_hours
    if limit is None or not profile.gpus_a_task:
        return
    ahead = sum(training.gpu_hours for training in forecast(folder, graph, profile))
    allocated = allocated_gpu_hours(folder, graph)
    if ahead + allocated > limit:
        raise UserError(
            f"budget.gpu_hours is {limit:g}, but trainings still to be run take {ahead:.3g} GPU-hours by the "
            f"forecast of `quarterdose plan`, and {allocated:.3g} were given so far: take fewer cells, epochs or "
            "samples, or mend it"
        )
