"""The report of a run: CSV files, figures and one page that holds them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.files import write_atomic
from pipeline.config import CellSettings, RunSettings
from pipeline.report.html import write_page
from pipeline.report.plots import draw_loss_curves, draw_slices, draw_speed_up
from pipeline.report.tables import cells_table, quality_table, summary
from pipeline.scaling.analysis import speed_up


def write_report(
    root: Path, settings: RunSettings, cells: Sequence[CellSettings], states: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Write ``root/report`` from what lies in the run folder ``root``.

    ``states`` says of each cell whether it is ``done``, ``failed`` …, and why.
    """
    target = root / "report"
    target.mkdir(parents=True, exist_ok=True)
    trained = cells_table(root, cells, states)
    scaled = speed_up(trained)
    judged = quality_table(root, [cell.id for cell in cells])
    for name, table in (("cells", trained), ("speedup", scaled), ("quality", judged)):
        write_atomic(target / f"{name}.csv", table.to_csv(index=False))
    draw_loss_curves(root, cells, target / "loss.png")
    draw_speed_up(scaled, target / "speedup.png")
    draw_slices(root, judged, settings.data.low_dose.dose, target / "slices.png")
    write_atomic(target / "summary.txt", summary(judged, scaled, trained))
    write_page(root, settings, {"cells": trained, "speedup": scaled, "quality": judged}, target)
    return {"cells": len(trained), "models": len(judged)}
