"""Hours that a search will take at most, forecast before it is submitted."""

from contextlib import suppress

from data_prep.errors import UserError
from jobs.commands.forecast import Forecast, forecast_cells
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.stages.search import searches_of
from pipeline.search.cells import trial_cell
from pipeline.search.trials import Parameters
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import RunSettings
from slurm.profile import Profile


def forecast_search(folder: RunFolder, graph: Graph, profile: Profile) -> Forecast:
    """Forecast the hours of all processes of a search at most: each trial as the costliest of its network.

    Rungs that are done are left out.

    Args:
        folder: of the run, whose settings have a search.
        graph: whose finished trainings tell the rates of networks.
        profile: that tells them otherwise.

    Raises:
        UserError: there is no rate, or the number of training volumes is not known yet.
    """
    trainings = _trainings_ahead(folder)
    costs = [_costliest(folder, graph, profile, network) for network in folder.settings.searched]
    hours, gpu_hours = (trainings * sum(x) for x in zip(*((cost.hours, cost.gpu_hours) for cost in costs), strict=True))
    return Forecast("search", hours, gpu_hours)


def _trainings_ahead(folder: RunFolder) -> float:
    """Count the trainings of a network that the rungs which are not done take together, of which some are parts."""
    total, before = 0.0, 0.0
    for stage in searches_of(folder):
        before = 0.0 if stage.rung.is_first else before
        if not all(stage.markers.is_done(item) for item in stage.items()):
            total += stage.rung.size * (stage.rung.share - before)
        before = stage.rung.share
    return total


def _costliest(folder: RunFolder, graph: Graph, profile: Profile, network: str) -> Forecast:
    """Forecast the costliest trial of a network: of each setting the end or choice that alone takes longest."""
    search = folder.settings.search
    assert search
    parameters: Parameters = {}
    alone = list[Forecast]()
    for name, setting in search.space_of(network).items():
        cells = [_cell(folder, network, {name: value}) for value in setting.values]
        forecasts = forecast_cells(folder, graph, profile, cells)
        longest = max(forecasts, key=lambda training: training.hours)
        parameters = {**parameters, name: setting.values[forecasts.index(longest)]}
        alone.append(longest)
    with suppress(UserError):  # the settings may refuse them together
        alone += forecast_cells(folder, graph, profile, [_cell(folder, network, parameters)])
    return max(alone, key=lambda training: training.hours)


def search_note(run: RunSettings, ahead: Forecast) -> str:
    """Say in a sentence what a search takes at most; ``ahead``: its forecast."""
    assert run.search
    bill, cap = run.budget.bill(ahead.gpu_hours), run.search.budget_gpu_hours
    return (
        f"Search still to be run, {run.search.trials} trials of each of {len(run.searched)} networks: at most "
        f"{ahead.hours:.3g} hours of its processes, {ahead.gpu_hours:.3g} GPU-hours{f', {bill}' if bill else ''}; "
        f"search.budget_gpu_hours: {'no limit' if cap is None else f'{cap:g}'}."
    )


def _cell(folder: RunFolder, network: str, parameters: Parameters) -> CellSettings:
    return trial_cell(folder.settings, network, 0, parameters, 0)
