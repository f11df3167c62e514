"""The quality of denoisers as CSV files, figures and lines, without the rest of the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from data_prep.files import write_atomic
from pipeline.quality.measures import Measure, SliceMeasure, shown_in
from pipeline.report.doses import at_lowest, split_by_dose
from pipeline.report.figures import QUALITY, draw_all
from pipeline.report.quality_tables import judged_table, quality_tables
from pipeline.report.results import Results
from pipeline.settings.names import FigureFormat


def write_quality(
    root: Path, judged: Sequence[str], target: Path, formats: Sequence[FigureFormat]
) -> dict[str, pd.DataFrame]:
    """Write tables and figures of the models ``judged`` in the run folder ``root`` to ``target``.

    Returns:
        The tables, by the names of their CSV files.
    """
    slices = judged_table(root, judged)
    tables = quality_tables(root, judged, slices)
    for name, table in tables.items():
        write_atomic(target / f"{name}.csv", table.to_csv(index=False))
    list(draw_all(Results(tables, pd.DataFrame(), at_lowest(slices), None), target, QUALITY, formats))
    return tables


def quality_lines(tables: Mapping[str, pd.DataFrame]) -> str:
    """Write a few columns of the table of models for the terminal, and who wins, by the same RMSE over slices."""
    columns = {_column(measure): measure.short or measure.title for measure in shown_in("terminal")}
    several = len(split_by_dose(tables["quality"])) > 1
    models = tables["quality"].set_index(["dose", "model"] if several else "model")[[*columns]].rename(columns=columns)
    table = models.to_string(float_format="{:.4g}".format, na_rep="-")
    return "\n".join([table, *tables["quality_verdicts"]["verdict"]])


def _column(measure: Measure) -> str:
    return f"{measure.name}_mean" if isinstance(measure, SliceMeasure) else measure.name
