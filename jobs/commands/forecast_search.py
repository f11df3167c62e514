"""Hours that a search will take at most, forecast before it is submitted."""

from collections.abc import Collection
from contextlib import suppress

from data_prep.errors import UserError
from data_prep.log import describe_count
from jobs.commands.forecast import Forecast, forecast_cells, items_ahead, split_of
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.stages.graph import search_of
from jobs.stages.search import searches_of
from pipeline.search.cells import trial_cell
from pipeline.search.halving import last_epoch
from pipeline.search.trials import Parameters
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import RunSettings
from slurm.profile import Profile


def forecast_search(folder: RunFolder, graph: Graph, profile: Profile) -> Forecast:
    """Forecast the hours of all processes of a search at most: all trials as the costliest of their network.

    Rungs that are done, and do not run again, are left out.

    Args:
        folder: of the run, whose settings have a search.
        graph: whose finished trainings tell the rates of networks.
        profile: that tells them otherwise.

    Raises:
        UserError: there is no rate, or the number of training volumes is not known yet.
    """
    ahead = items_ahead(search_of(folder))
    costs = [_costliest(folder, graph, profile, network, ahead) for network in folder.settings.searched]
    return Forecast("search", sum(cost.hours for cost in costs), sum(cost.gpu_hours for cost in costs))


def _costliest(folder: RunFolder, graph: Graph, profile: Profile, network: str, ahead: Collection[Ref]) -> Forecast:
    """Forecast all trials of a network as the costliest: of each setting the end or choice that alone takes longest."""
    search, split = folder.settings.search, split_of(graph)
    assert search
    volumes = len(split.parts["train"]) if split else 0

    def forecast(parameters: Parameters) -> Forecast:
        cell = trial_cell(folder.settings, network, 0, parameters, volumes)
        (training,) = forecast_cells(folder, graph, profile, [cell])
        trainings = _trainings_ahead(folder, cell, ahead)
        return Forecast(network, trainings * training.hours, trainings * training.gpu_hours)

    costliest: Parameters = {}
    forecasts = list[Forecast]()
    for name, setting in search.space_of(network).items():
        alone = [forecast({name: value}) for value in setting.values]
        forecasts.append(max(alone, key=_hours))
        costliest = {**costliest, name: setting.values[alone.index(forecasts[-1])]}
    with suppress(UserError):  # the settings may refuse them together
        forecasts.append(forecast(costliest))
    return max(forecasts, key=_hours)


def _trainings_ahead(folder: RunFolder, cell: CellSettings, ahead: Collection[Ref]) -> float:
    """Count the trainings such as a cell's that the rungs ``ahead`` take together, of which some are parts."""
    epochs, total, before = cell.training.epochs, 0.0, 0.0
    for stage in searches_of(folder):
        before = 0.0 if stage.rung.is_first else before
        share = last_epoch(stage.rung.share, epochs, cell.training.validation_epochs) / epochs
        if any((stage.name, item) in ahead for item in stage.items()):
            total += stage.rung.size * (share - before)
        before = share
    return total


def _hours(ahead: Forecast) -> float:
    return ahead.hours


def search_note(run: RunSettings, ahead: Forecast) -> str:
    """Say in a sentence what a search takes at most; ``ahead``: its forecast."""
    assert run.search
    bill, cap = run.budget.bill(ahead.gpu_hours), run.search.budget_gpu_hours
    return (
        f"Search still to be run, {describe_count(run.search.trials, 'trial')} of each of "
        f"{describe_count(len(run.searched), 'network')}: at most "
        f"{ahead.hours:.3g} hours of its processes, {ahead.gpu_hours:.3g} GPU-hours{f', {bill}' if bill else ''}; "
        f"search.budget_gpu_hours: {'no limit' if cap is None else f'{cap:g}'}."
    )
