"""Commands for before a run: ``plan`` its memory and hours, print its whole ``config``."""

from typing import Annotated

import typer

from data_prep.settings_file import load_settings
from jobs.commands.options import Config, Overrides
from jobs.engine.run_folder import RunFolder, resolved_yaml
from pipeline.settings.run import RunSettings
from slurm.profile import load_profile

_LEAST_WIDTH = 190  # characters; a narrower terminal breaks the lines, which is better than cut figures


def plan(
    config: Config,
    gpu: Annotated[str | None, typer.Option(help="GPU of the ranks, such as A100-80GB; else CPUs.")] = None,
    on: Annotated[str | None, typer.Option(help="Profile by which hours are forecast and the budget is kept.")] = None,
    overrides: Overrides = None,
) -> None:
    """Predict each training's memory, on a GPU the largest batch that fits, on a cluster the hours; and the disk."""
    from rich.console import Console

    from jobs.commands.forecast import check_budget, forecast
    from jobs.commands.forecast_search import forecast_search, search_note
    from jobs.commands.plan_table import plan_notes, plan_table
    from jobs.commands.store_size import store_note
    from jobs.stages.graph import graph_of
    from jobs.stages.prepare import Prepare

    settings, console = load_settings(config, RunSettings, overrides), Console()
    folder = RunFolder.of(settings)
    graph, profile = graph_of(folder), load_profile(on) if on else None
    forecasts = forecast(folder, graph, profile) if profile else None
    table = plan_table(settings, gpu, forecasts)
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)
    for note in plan_notes(settings, gpu, forecasts):
        typer.echo(note)
    typer.echo(store_note(Prepare(folder)))
    if profile and settings.search:
        typer.echo(search_note(settings, forecast_search(folder, graph, profile)))
    if profile:
        check_budget(folder, graph, profile)


def show_config(config: Config, overrides: Overrides = None) -> None:
    """Print the whole settings tree as it is resolved."""
    typer.echo(resolved_yaml(load_settings(config, RunSettings, overrides)), nl=False)
