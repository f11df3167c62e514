"""The report as one page of HTML, with its figures, images and scripts inside."""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from data_prep.files import write_atomic
from data_prep.lowdose.flags import describe_flags
from data_prep.manifest import read_manifest
from data_prep.noise_table import read_noise
from pipeline.report.captions import TABLE_CAPTIONS
from pipeline.report.cell_pages import HEIGHT, WIDTH, cell_pages
from pipeline.report.doses import shown_dose, worse_models
from pipeline.report.figures import Drawn
from pipeline.report.figures.style import figure_path
from pipeline.report.html_tables import ShownTable, show, show_datasets, show_quality, show_table2
from pipeline.report.results import Results
from pipeline.report.tables import read_json, records
from pipeline.report.volumes import viewer_data
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import CLASSICAL_TITLES, LOW_DOSE_INPUT
from pipeline.settings.run import RunSettings

# folders and files may be named after patients
_PATHS: Any = {"runs": True, "networks": {"__all__": {"donor_file"}}, "data": {"sources": {"__all__": {"path"}}}}
_COLUMNS = {
    "cells": ["cell", "state", "model", "slices", "ranks", "nodes", "sampling", "transfer", "seed", "arm", "work",
              "epochs", "parameters", "steps", "stopped_early", "samples", "effective_batch", "training_seconds",
              "validation_seconds", "start_seconds", "step_p50_seconds", "step_p95_seconds", "cpu_seconds",
              "peak_bytes", "device", "disturbed", "disturbance", "reason"],
}  # fmt: skip
_MANIFEST = ["dataset", "subject", "scan", "state", "slices", "spacing_z_mm", "spacing_xy_mm",
             "noise_full_hu", "noise_added_hu", "noise_ratio", "noise_remark", "rmse_low_hu", "reason"]  # fmt: skip


def write_page(
    root: Path, settings: RunSettings, cells: Sequence[CellSettings], results: Results, figures: Sequence[Drawn],
    target: Path,
) -> None:  # fmt: skip
    """Write ``target/index.html``, as :func:`render` makes pages."""
    split, manifest = read_json(root / "data" / "split.json"), _manifest(root / "data" / "manifest.csv")
    gpu_hours = _total(results.tables["accounting"], "gpu_hours")
    page = render(
        "page.html.j2", ("tables.js", "viewer.js"), figures,
        settings=settings,
        shown_settings=settings.model_dump(mode="json", exclude=_PATHS),
        split=split,
        held_out=split["parts"]["test"][:1] if split else [],
        manifest=show(manifest, _MANIFEST, ()), noise_flags=_noise_flags(root / "data"),
        tables=_tables(results.tables, [cell.id for cell in cells]), captions=TABLE_CAPTIONS,
        states=results.tables["cells"]["state"].value_counts().to_dict(),
        gpu_hours=gpu_hours,
        bill=None if gpu_hours is None else settings.budget.bill(gpu_hours),
        core_hours=_total(results.tables["accounting"], "core_hours"),
        viewer=results.stacks and viewer_data(results.stacks),
        verdicts=[(row["verdict"], row["winner"] in (LOW_DOSE_INPUT, *CLASSICAL_TITLES))
                  for row in records(results.verdicts)],
        worse=worse_models(results.tables["quality"]),
        shown_dose=shown_dose(results.tables["quality"]),
        pages=cell_pages(cells, results.tables["cells"], results.curves), course_size=(WIDTH, HEIGHT),
        provenance=read_json(root / "provenance.json"),
    )  # fmt: skip
    write_atomic(target / "index.html", page)


def render(template: str, scripts: Sequence[str], figures: Sequence[Drawn], **context: Any) -> str:
    """Fill a template of this package; figures and images are inside the page, every text is escaped.

    A Content-Security-Policy in the page forbids all requests, and all scripts but those given here by file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["pretty"] = partial(json.dumps, indent=1, ensure_ascii=False)
    texts, style = [_asset(name) for name in scripts], _asset("page.css")
    return environment.get_template(template).render(
        policy=_policy(texts, style), scripts=texts, style=style,
        figures=[(drawn, _data_url(drawn)) for drawn in figures], **context,
    )  # fmt: skip


def _asset(name: str) -> Markup:
    """Read a file of this package that goes into the page without being escaped."""
    return Markup(files("pipeline.report").joinpath(name).read_text("utf-8"))  # noqa: S704


def _policy(scripts: Sequence[str], style: str) -> str:
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
              for text in (*scripts, style)]  # fmt: skip
    return f"default-src 'none'; img-src data:; script-src {' '.join(hashes[:-1])}; style-src {hashes[-1]}"


def _tables(tables: Mapping[str, pd.DataFrame], cells: Collection[str]) -> dict[str, ShownTable]:
    shown = {name: show(table, _COLUMNS.get(name), cells) for name, table in tables.items()}
    if "quality_datasets" in tables:
        shown["quality_datasets"] = show_datasets(tables["quality_datasets"], cells)
    return {**shown, "quality": show_quality(tables["quality"], cells), "table2": show_table2(tables["table2"])}


def _manifest(path: Path) -> pd.DataFrame:
    return read_manifest(path) if path.exists() else pd.DataFrame()


def _noise_flags(data: Path) -> str:
    return describe_flags(read_noise(data)) if (data / "manifest.csv").exists() else ""


def _total(accounting: pd.DataFrame, column: str) -> float | None:
    """Sum a column; None where no hours were counted."""
    return float(accounting[column].sum()) if column in accounting and accounting[column].notna().any() else None


def _data_url(drawn: Drawn) -> str:
    """Return the figure's file as a URL for ``src``; empty if the figure is missing."""
    if drawn.missing:
        return ""
    kind = {"png": "png", "svg": "svg+xml"}[drawn.figure.shown]
    content = figure_path(drawn.path, drawn.figure.shown).read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
