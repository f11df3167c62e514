"""The command ``search``: trials of each network of a run, and the settings that were best."""

from importlib.util import find_spec

import typer

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from jobs.commands.options import LOCAL, Config, DryRun, On, Overrides
from jobs.commands.run import updated
from jobs.engine.run_folder import RunFolder
from pipeline.search.cells import check_space
from pipeline.settings.run import RunSettings
from slurm.profile import Profile, load_profile


def search(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Try settings of each network in trials, as `search` in the settings says; write the best as a settings file."""
    from jobs.stages.graph import open_search, search_of

    settings = load_settings(config, RunSettings, overrides)
    if settings.search is None:
        raise UserError(f"{config}: search is missing: say at least search: {{space: {{PATH: RANGE}}}}")
    if find_spec("optuna") is None:
        raise UserError("a search needs Optuna, which is not installed: run `pip install quarterdose[search]`")
    check_space(settings)
    folder = RunFolder.of(settings)
    if on != LOCAL and settings.budget.gpu_hours is not None:
        _check_budget(folder, load_profile(on))
    with updated(folder, search_of(folder), open_search, on, dry_run) as ran_here:
        if ran_here:
            typer.echo((folder.search / "summary.txt").read_text("utf-8"), nl=False)
            typer.echo(f"found settings: {folder.search / 'found.yaml'}, trials: {folder.search / 'trials.csv'}")


def _check_budget(folder: RunFolder, profile: Profile) -> None:
    """Check that what the search takes at most is within the budget of the run."""
    from jobs.commands.forecast import check_budget
    from jobs.commands.forecast_search import forecast_search
    from jobs.stages.graph import search_of

    graph = search_of(folder)
    check_budget(folder, graph, profile, forecast_search(folder, graph, profile).gpu_hours)
