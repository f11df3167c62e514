"""The report of a search: tables, figures and a page."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from data_prep.files import write_atomic
from pipeline.report.figures import ReportFigure, draw_all
from pipeline.report.figures.search import draw_best_so_far, draw_importance, draw_parallel_coordinates
from pipeline.report.html import render
from pipeline.report.html_tables import show
from pipeline.report.results import Results
from pipeline.report.tables import as_csv
from pipeline.search.importance import LEAST_TRIALS, importance_table
from pipeline.search.outcome import networks_table, outcome_lines, trials_table
from pipeline.search.trials import Trial
from pipeline.settings.run import RunSettings

SEARCH_FIGURES = {
    "best-so-far": ReportFigure(
        draw_best_so_far, "search",
        "The best so far against hours, in the order of the trials' numbers. Marks: trials; hollow, and never the "
        "best: not trained to the end, with the RMSE of their last rung.",
    ),
    "parallel-coordinates": ReportFigure(
        draw_parallel_coordinates, "search",
        "Each trial's settings and its validation RMSE as a share of the input's. Blue: trained to the end, the darker "
        "the better; grey: not trained to the end, with the RMSE of its last rung.",
    ),
    "importance": ReportFigure(
        draw_importance, "search",
        "How much each setting decides on being among the best quarter after the first rung (PED-ANOVA). Hollow: no "
        "more than chance gives.",
    ),
}  # fmt: skip
_CAPTIONS = {
    "networks": "What each network's trials took, and the best. Value: validation RMSE as a share of the input's.",
    "trials": "All trials; value and hours up to the last rung that each completed.",
    "importance": "Importance of settings, and 95 % of what chance gives with shuffled values.",
}


def write_search(target: Path, run: RunSettings, trials: Sequence[Trial]) -> None:
    """Write tables, figures and ``index.html`` of a search to the folder ``target``."""
    assert run.search
    tables = {
        "networks": networks_table(run.searched, trials), "trials": trials_table(trials),
        "importance": importance_table(run.search, run.searched, trials),
    }  # fmt: skip
    for name, table in tables.items():
        write_atomic(target / f"{name}.csv", as_csv(table))
    results = Results({**tables, "ranges": _ranges_table(run)}, pd.DataFrame(), pd.DataFrame(), None)
    figures = list(draw_all(results, target / "figures", SEARCH_FIGURES, run.report.formats))
    page = render(
        "search.html.j2", ("tables.js",), figures,
        name=run.name, lines=outcome_lines(run, trials), captions=_CAPTIONS, least=LEAST_TRIALS,
        optuna=version("optuna"),
        tables={name: show(table, None, ()) for name, table in tables.items()},
        search=run.search.model_dump(mode="json", exclude_none=True),
    )  # fmt: skip
    write_atomic(target / "index.html", page)


def _ranges_table(run: RunSettings) -> pd.DataFrame:
    """Make a row a parameter of each network, with its kind and its ends or choices."""
    assert run.search
    rows = [{"network": network, "parameter": name, "kind": setting.kind, "values": setting.values}
            for network in run.searched for name, setting in run.search.space_of(network).items()]  # fmt: skip
    return pd.DataFrame(rows)
