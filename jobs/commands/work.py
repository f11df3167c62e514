"""The hidden command ``work``, for sbatch scripts that users write themselves."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from jobs.commands.options import Config
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder, resolved_yaml
from jobs.engine.submissions import FIND
from pipeline.settings.run import RunSettings

_RESTARTS = 10  # of a job that was not submitted by a profile


def work(config: Config, stage: str, item: Annotated[str | None, typer.Argument()] = None) -> None:
    """Do a stage, or one training of it, inside a job of Slurm: for sbatch scripts of one's own."""
    from jobs.engine.in_job import find_items, run_rank, run_share
    from jobs.stages.graph import open_graph, open_search

    folder = RunFolder.of(load_settings(config, RunSettings))
    folder.secure()
    opens = open_search if stage.startswith("search-") else open_graph
    if stage == FIND:
        folder.check({})
        folder.record()
        find_items(open_graph, folder.root, _RESTARTS)
        return
    _check_recorded(config, folder)
    _check_names(opens(folder.root), stage, item)
    if item is None:
        run_share(opens, folder.root, stage, _RESTARTS)
    else:
        run_rank(opens, folder.root, stage, item, _RESTARTS)


def _check_recorded(config: Path, folder: RunFolder) -> None:
    """Check that ``find`` recorded these settings, by which all stages go."""
    if resolved_yaml(RunFolder.opened(folder.root).settings) != resolved_yaml(folder.settings):
        raise UserError(
            f"{folder.root} was begun with other settings than {config} has now: submit its stage `find` first"
        )


def _check_names(graph: Graph, stage: str, item: str | None) -> None:
    if stage not in graph.stages:
        raise UserError(f"there is no stage {stage}; the stages are: {FIND}, {', '.join(graph.stages)}")
    trainings = graph.stages[stage].items() if graph.stages[stage].uses_ranks else []
    if item is not None and item not in trainings:
        raise UserError(f"stage {stage} has no training {item}; its trainings are: {', '.join(trainings) or 'none'}")
