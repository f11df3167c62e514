"""Hours that the trainings of a run will take, forecast before they are submitted, against the budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import ValidationError

from data_prep.errors import UserError
from data_prep.split import Split
from jobs.engine.decision import Cause
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.outputs import check_outputs
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.stages.graph import started_of
from jobs.stages.search import Search
from jobs.stages.split import read_split
from jobs.stages.train import CellStage, Transfer
from pipeline.settings.cells import CellSettings
from pipeline.training.schedule import length_of
from slurm.profile import Profile

_HOUR = 3600.0


@dataclass(frozen=True)
class Forecast:
    """Hours of one training from its first step to its last; ``gpu_hours``: times its GPUs."""

    cell: str
    hours: float
    gpu_hours: float


def forecast(folder: RunFolder, graph: Graph, profile: Profile) -> list[Forecast]:
    """Forecast the hours of each training that is still to be run, also where it was done under other settings.

    Operations of its steps and validations, divided by a rate: the median of the run's finished trainings with the
    same network, else the profile's ``teraflops``.

    Trainings with ``patience`` may take less.

    Raises:
        UserError: there is no rate, or the number of training volumes is not known yet.
    """
    ahead = items_ahead(graph)
    cells = [cell for stage, cell in _cells(graph) if (stage.name, cell.id) in ahead]
    return forecast_cells(folder, graph, profile, cells)


def items_ahead(graph: Graph) -> set[Ref]:
    """List the items that are not done or run again, as far as that is known without a search for scans.

    A scan or split that failed before makes no training again here: else one that always fails would count them all.
    """
    is_searched, ahead = all(stage.is_searched() for stage in graph.stages.values()), set[Ref]()
    for stage in graph.stages.values():
        if isinstance(stage, CellStage | Transfer | Search):
            ahead |= {x.ref for x in graph.decide(stage, ahead) if x.run or not graph.is_done(x.ref)}
        elif is_searched:
            ahead |= {x.ref for x in graph.decide(stage, ahead) if x.run and x.reason.cause is not Cause.FAILED}
    return ahead


def forecast_cells(folder: RunFolder, graph: Graph, profile: Profile, cells: Sequence[CellSettings]) -> list[Forecast]:
    """Forecast the hours of some trainings as :func:`forecast` does, whether they are done or not."""
    split = split_of(graph)
    rates = {network: list(_rates(folder, graph, network, split)) for network in folder.settings.networks}
    return [_forecast(folder, cell, profile, rates[cell.network], split) for cell in cells]


def _cells(graph: Graph) -> Iterator[tuple[CellStage, CellSettings]]:
    for stage in graph.stages.values():
        if isinstance(stage, CellStage):
            yield from ((stage, cell) for cell in stage.cells.values())


def split_of(graph: Graph) -> Split | None:
    """Read the split; None before the scans are split."""
    stage = graph.stages["split"]
    if not stage.markers.is_done("split"):
        return None
    check_outputs([(stage, "split")])
    return read_split(stage)


def _rates(folder: RunFolder, graph: Graph, network: str, split: Split | None) -> Iterator[float]:
    """Yield a rank's operations per second in each finished training of a network."""
    for stage, current in _cells(graph):
        marker = stage.markers.read(current.id)
        if current.network == network and marker and marker.state == "done" and (cell := _trained_cell(marker)):
            seconds, operations = marker.result["seconds"], _operations(folder, cell, split)
            length = length_of(cell.training, len(split.parts["train"]) if split else 0, cell.ranks)
            share = marker.result["steps"] / length.steps  # it may have stopped early
            yield share * operations / cell.ranks / (seconds["training"] + seconds["validation"])


def _trained_cell(marker: Marker) -> CellSettings | None:
    """Read the settings with which a training was done; None where they are those of another version."""
    try:
        return CellSettings.model_validate(marker.parts["settings"])
    except (KeyError, ValidationError):
        return None


def _operations(folder: RunFolder, cell: CellSettings, split: Split | None) -> float:
    from pipeline.training.arithmetic import count_operations  # torch, which submissions without a budget are spared

    by_scans = cell.training.validation == "scans"
    if split is None and (by_scans or cell.training.samples is None):
        raise UserError(
            f"the steps of cell {cell.id} are not known before the scans are split: run `quarterdose prepare` first, "
            f"or set training.samples{' and training.validation: crops' if by_scans else ''}"
        )
    if split is None:
        return count_operations(cell, 0, ())
    validated = [len(segment) for segment in split.parts["validation"]] * _count_doses(folder, cell)
    return count_operations(cell, len(split.parts["train"]), validated)


def _count_doses(folder: RunFolder, cell: CellSettings) -> int:
    """Count the doses at which the cell is validated: those that it trains on, by default all that are stored."""
    return len(cell.training.doses or folder.settings.data.low_dose.doses)


def _forecast(
    folder: RunFolder, cell: CellSettings, profile: Profile, rates: Sequence[float], split: Split | None
) -> Forecast:
    if not rates and profile.teraflops is None:
        raise UserError(
            f"no training of network {cell.network} in {folder.root} is done that would tell the rate of a rank: set "
            "teraflops in the profile"
        )
    rate = median(rates) if rates else 1e12 * (profile.teraflops or 0.0)
    hours = _operations(folder, cell, split) / cell.ranks / rate / _HOUR
    return Forecast(cell.id, hours, hours * cell.ranks * profile.gpus_a_task)


def check_budget(folder: RunFolder, graph: Graph, profile: Profile, searched: float = 0.0) -> None:
    """Compare the forecast plus the GPU-hours allocated so far with the run's ``budget.gpu_hours``.

    ``searched``: GPU-hours of a search, which come on top.

    Raises:
        UserError: they are more, or cannot be forecast.
    """
    limit = folder.settings.budget.gpu_hours
    if limit is None or not profile.gpus_a_task:
        return
    from jobs.stages.accounting import accounting_table  # pandas, which submissions without a budget are spared

    ahead = searched + sum(training.gpu_hours for training in forecast(folder, graph, profile))
    allocated = accounting_table(folder, started_of(folder))["gpu_hours"].sum()
    if ahead + allocated > limit:
        raise UserError(
            f"budget.gpu_hours is {limit:g}, but trainings still to be run take {ahead:.3g} GPU-hours by the "
            f"forecast of `quarterdose plan`, and {allocated:.3g} were given so far: take fewer cells, epochs or "
            "samples, or mend it"
        )
