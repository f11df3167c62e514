"""The report of a run: CSV files, figures and one page that holds them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.files import write_atomic
from pipeline.config import CellSettings, RunSettings
from pipeline.report.html import write_page
from pipeline.report.plots import draw_loss_curves, draw_slices, draw_speed_up
from pipeline.report.tables import cells_table, quality_table, summary, validation_table
from pipeline.scaling.analysis import speed_up, steps_to_2d
from pipeline.scaling.timing import epochs_table, steps_table


def write_report(
    root: Path,
    settings: RunSettings,
    cells: Sequence[CellSettings],
    states: Mapping[str, tuple[str, str]],
    judged: Sequence[str],
    accounting: pd.DataFrame,
) -> dict[str, Any]:
    """Write ``root/report`` from what lies in the run folder ``root``.

    ``states`` says of each cell whether it is ``done``, ``failed`` …, and why; ``judged`` names the
    networks, and the low-dose input, whose judgement is up to date; ``accounting`` has what jobs were given, a row
    each, or none if there were no jobs.
    """
    target = root / "report"
    target.mkdir(parents=True, exist_ok=True)
    steps = steps_table(root, cells)
    trained, quality = cells_table(root, cells, states, steps), quality_table(root, judged)
    scaled, transferred = speed_up(trained), steps_to_2d(trained, validation_table(root, cells))
    tables = {"cells": trained, "epochs": epochs_table(steps), "speedup": scaled, "quality": quality,
              "transfer": transferred, "accounting": accounting}  # fmt: skip
    for name, table in tables.items():
        write_atomic(target / f"{name}.csv", table.to_csv(index=False))
    draw_loss_curves(root, cells, target / "loss.png")
    draw_speed_up(scaled, target / "speedup.png")
    draw_slices(root, quality, settings.data.low_dose.dose, target / "slices.png")
    write_atomic(target / "summary.txt", summary(quality, scaled, transferred, trained))
    write_page(root, settings, tables, target)
    return {"cells": len(trained), "models": len(quality)}
