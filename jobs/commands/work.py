"""The hidden command ``work``, for sbatch scripts that users write themselves."""

from typing import Annotated

import typer

from data_prep.settings_file import load_settings
from jobs.commands.options import Config
from jobs.engine.run_folder import RunFolder
from pipeline.settings.run import RunSettings

_RESTARTS = 10  # of a job that was not submitted by a profile


def work(config: Config, stage: str, item: Annotated[str | None, typer.Argument()] = None) -> None:
    """Do a stage, or one training of it, inside a job of Slurm: for sbatch scripts of one's own."""
    from jobs.engine.in_job import find_items, run_rank, run_share
    from jobs.engine.queue import FIND
    from jobs.stages.graph import open_graph, open_search

    folder = RunFolder.of(load_settings(config, RunSettings))
    folder.secure()
    if stage == FIND:
        folder.check({})
        folder.record()
        find_items(open_graph, folder.root)
    elif item is None:
        run_share(open_search if stage.startswith("search-") else open_graph, folder.root, stage, _RESTARTS)
    else:
        run_rank(open_graph, folder.root, stage, item, _RESTARTS)
