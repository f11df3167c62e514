"""The one page that holds the report."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from data_prep.files import write_atomic
from pipeline.config import RunSettings

FIGURES = (
    ("slices.png", "One held-out slice, in the lung window, and what differs from the full dose"),
    ("speedup.png", "Speed-up and efficiency of training against the fewest ranks"),
    ("loss.png", "Training loss and validation error"),
)
# folders and files may be named after patients
_PATHS: Any = {"runs": True, "study": {"donor": True}, "data": {"sources": {"__all__": {"path"}}}}
_DIGITS = {"rmse_hu": "2f", "mse": "2e", "psnr": "2f", "ssim": "4f", "ms_ssim": "4f"}
_COLUMNS = {
    "speedup": ["cell", "slices", "transfer", "ranks", "training_seconds", "baseline", "speed_up", "efficiency"],
    "transfer": ["cell", "slices", "ranks", "transfer", "error_2d", "steps_to_2d", "steps_saved"],
    "cells": ["cell", "state", "model", "slices", "ranks", "sampling", "transfer", "parameters", "steps", "samples",
              "effective_batch", "training_seconds", "validation_seconds", "start_seconds", "cpu_seconds", "peak_bytes",
              "device", "reason"],
    "accounting": ["stage", "item", "gpus", "starts", "waited_hours", "gpu_hours", "core_hours", "training_gpu_hours",
                   "validation_gpu_hours", "checkpoint_gpu_hours", "other_gpu_hours", "source"],
}  # fmt: skip


def write_page(root: Path, settings: RunSettings, tables: Mapping[str, pd.DataFrame], target: Path) -> None:
    """Write ``target/index.html``; figures are inside, every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    split = json.loads((root / "data" / "split.json").read_text())
    page = environment.get_template("page.html.j2").render(
        settings=settings,
        shown_settings=settings.model_dump(mode="json", exclude=_PATHS),
        manifest=_rows(
            pd.read_csv(root / "data" / "manifest.csv"),
            ["dataset", "subject", "scan", "state", "slices", "spacing_z_mm", "spacing_xy_mm", "rmse_low_hu", "reason"],
        ),
        split=split,
        tables={name: _rows(tables[name], columns) for name, columns in _COLUMNS.items()},
        quality=_quality_rows(tables["quality"]),
        figures=[(text, base64.b64encode((target / name).read_bytes()).decode()) for name, text in FIGURES],
        worse=list(tables["quality"].query("beats_input == 'no'")["model"]),
        provenance=json.loads((root / "provenance.json").read_text()),
    )
    write_atomic(target / "index.html", page)


def _rows(table: pd.DataFrame, columns: list[str]) -> list[list[str]]:
    """Header and cells as text."""
    kept = [column for column in columns if column in table]
    return [
        kept,
        *(
            [_text(column, value) for column, value in zip(kept, row, strict=True)]
            for row in table[kept].itertuples(index=False)
        ),
    ]


def _quality_rows(table: pd.DataFrame) -> list[list[str]]:
    """Mean and SD of each metric in one cell."""
    shown = table[["model", "scans", "slices", "rmse_change", "beats_input"]].copy()
    for metric, digits in _DIGITS.items():
        pairs = zip(table[f"{metric}_mean"], table[f"{metric}_sd"], strict=True)
        shown[metric] = [f"{mean:.{digits}} ± {sd:.{digits}}" for mean, sd in pairs]
    return _rows(shown, ["model", "scans", "slices", "rmse_hu", "rmse_change", "beats_input", *list(_DIGITS)[1:]])


def _text(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if column in ("rmse_change", "efficiency"):
        return f"{100 * value:+.1f} %" if column == "rmse_change" else f"{100 * value:.0f} %"
    if column == "peak_bytes":
        return f"{value / 2**30:.2f} GiB"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
