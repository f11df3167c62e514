"""Write the report of a run: tables, figures and the page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.files import digest_json, write_atomic
from pipeline.report.doses import DOSE, at_lowest, doses_table
from pipeline.report.figures import draw_all
from pipeline.report.html import write_page
from pipeline.report.latex import as_latex
from pipeline.report.networks import networks_table
from pipeline.report.quality_tables import judged_table, quality_tables
from pipeline.report.results import Results
from pipeline.report.summary import summary
from pipeline.report.table2 import as_markdown, table2
from pipeline.report.tables import as_csv, cells_table, curves_table, validation_table
from pipeline.report.volumes import read_stacks
from pipeline.scaling.analysis import speed_up, steps_to_2d, unlike
from pipeline.scaling.attribution import attribution
from pipeline.scaling.laws import laws
from pipeline.scaling.projection import projection
from pipeline.scaling.timing import epochs_table, steps_table
from pipeline.scaling.variance import falling_variance, variance
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import RunSettings
from pipeline.training.metrics_file import read_metrics


def write_report(
    root: Path,
    settings: RunSettings,
    cells: Sequence[CellSettings],
    states: Mapping[str, tuple[str, str]],
    judged: Sequence[str],
    accounting: pd.DataFrame,
) -> dict[str, Any]:
    """Write ``root/report`` from the files in the run folder ``root``; files that are missing leave gaps in it.

    Args:
        root: the run folder.
        settings: settings of the run.
        cells: the cells of the study.
        states: of each cell its state (``done``, ``failed`` …) and the reason.
        judged: the networks, and the low-dose input, whose judgement is up to date.
        accounting: a row a job with the resources that it had; no row if nothing ran in a queue.
    """
    target = root / "report"
    results = collect(root, settings, cells, states, judged, accounting)
    _write_tables(results, target, settings.name)
    figures = list(draw_all(results, target / "figures", formats=settings.report.formats))
    write_page(root, settings, cells, results, figures, target)
    return {"cells": len(cells), "models": len(judged)}


def collect(
    root: Path,
    settings: RunSettings,
    cells: Sequence[CellSettings],
    states: Mapping[str, tuple[str, str]],
    judged: Sequence[str],
    accounting: pd.DataFrame,
) -> Results:
    """Read the run folder and compute all that the report shows; arguments as those of :func:`write_report`."""
    lines = {cell.id: read_metrics(root / "cells" / cell.id) for cell in cells}
    curves, slices, steps = curves_table(cells, lines), judged_table(root, judged), steps_table(cells, lines)
    lowest = at_lowest(slices)
    trained = cells_table(root, cells, states, steps, include_disturbed=settings.study.include_disturbed)
    trained["donor"] = _donors(trained, settings)
    stored = settings.data.low_dose.doses
    trained["validated_on"] = [digest_json(cell.validated_on(stored))[:12] for cell in cells]
    quality = quality_tables(root, judged, slices)
    tables = {
        "cells": trained, **quality, **_scaling(trained, steps, lowest, settings.study.data_rate),
        "transfer": steps_to_2d(trained, validation_table(curves)), "table2": table2(trained, lowest),
        "quality_doses": doses_table(quality["quality"], cells, settings.data.low_dose.doses),
        "networks": networks_table(
            trained, lowest, at_lowest(quality.get("quality_scans", lowest)), _slice_ms(root, judged),
            _trials(root / "search" / "trials.csv"),
        ),
        "accounting": accounting,
    }  # fmt: skip
    shown, doses = at_lowest(quality["quality"]), [*slices[DOSE], np.nan]  # the example's is judged first
    return Results(tables, curves, lowest, read_stacks(root, shown, cells, doses[0]))


def _slice_ms(root: Path, judged: Sequence[str]) -> dict[str, float]:
    files = {model: root / "evaluation" / f"{model}.times.json" for model in judged}
    return {model: json.loads(path.read_text())["slice_ms"] for model, path in files.items()}


def _donors(cells: pd.DataFrame, settings: RunSettings) -> "pd.Series[str]":
    """Return the 2D training from which each starts; empty where the weights are random, or those of a file."""
    in_files = [name for name, network in settings.networks.items() if network.donor_file]
    return cells["counterpart"].where((cells["transfer"] != "none") & ~cells["network"].isin(in_files), "")


def _trials(path: Path) -> pd.DataFrame:
    """Read the trials of the run's search; no rows where there was none."""
    columns = {"network": str, "hours": float, "cpu_hours": float}
    if not path.exists():
        return pd.DataFrame(columns=[*columns]).astype(columns)
    dtypes = {"network": str}  # ids may look like numbers
    return pd.read_csv(path, usecols=[*columns], dtype=dtypes, keep_default_na=False, na_values={"cpu_hours": ""})


def _scaling(
    cells: pd.DataFrame, steps: pd.DataFrame, judged: pd.DataFrame, data_rate: float | None
) -> dict[str, pd.DataFrame]:
    """Compute the tables of how training scales with ranks."""
    epochs, disturbed = epochs_table(steps), cells.set_index("cell")["disturbed"]
    return {
        "epochs": epochs.assign(disturbed=epochs["cell"].map(disturbed)), "speedup": speed_up(cells, epochs),
        "laws": laws(cells, epochs),
        "attribution": attribution(cells, steps), "variance": variance(cells, judged),
        "variance_tests": falling_variance(cells, judged), "projection": projection(cells, steps, data_rate or np.inf),
        "unlike": unlike(cells),
    }  # fmt: skip


def _write_tables(results: Results, target: Path, run: str) -> None:
    tables = results.tables
    for name, table in tables.items():
        write_atomic(target / f"{name}.csv", as_csv(table))
    write_atomic(target / "table2.md", as_markdown(tables["table2"]))
    write_atomic(target / "table2.tex", as_latex(tables["table2"], run))
    verdicts = results.verdicts["verdict"]
    lines = summary(tables["quality"], verdicts, tables["speedup"], tables["transfer"], tables["cells"])
    write_atomic(target / "summary.txt", lines)
