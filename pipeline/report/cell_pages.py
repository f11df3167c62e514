"""The part of the page about each training: its facts, settings and curves."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report.figures.losses import errors, smoothed
from pipeline.report.html_tables import heading, text_of
from pipeline.report.tables import records
from pipeline.settings.cells import CellSettings

WIDTH, HEIGHT = 320, 90
_POINTS = 160
_IN_HEAD = ("cell", "state", "reason")


class Course(NamedTuple):
    """A small curve: title, points of an SVG polyline, lowest, highest and last value, and the samples at its end."""

    title: str
    points: str
    lowest: str
    highest: str
    last: str
    samples: int


class CellPage(NamedTuple):
    """A training: the values in its row of ``cells.csv`` by their headings, its settings, and its curves."""

    cell: str
    state: str
    reason: str
    facts: dict[str, str]
    settings: dict[str, Any]
    courses: list[Course]


def cell_pages(cells: Sequence[CellSettings], trained: pd.DataFrame, curves: pd.DataFrame) -> list[CellPage]:
    """Build the page of each training, in the order of ``cells``."""
    of_cell = dict(list(curves.groupby("cell")))
    rows = {row["cell"]: row for row in records(trained)}
    return [_page(cell, rows[cell.id], of_cell.get(cell.id, curves.iloc[:0])) for cell in cells]


def _page(cell: CellSettings, row: dict[str, Any], curves: pd.DataFrame) -> CellPage:
    facts = {heading(name): text_of(name, value) for name, value in row.items() if name not in _IN_HEAD}
    facts = {name: text for name, text in facts.items() if text}
    trained, validated = (curves[curves["kind"] == kind] for kind in ("train", "validation"))
    courses = [_course("training loss", smoothed(trained), True),
               _course("validation RMSE, % of the input's", errors(validated), False)]  # fmt: skip
    drawn = [course for course in courses if course]
    return CellPage(cell.id, row["state"], row["reason"], facts, cell.model_dump(mode="json"), drawn)


def _course(title: str, course: pd.DataFrame, logarithmic: bool) -> Course | None:
    """Return the curve of a training, or None with fewer than two points; logarithmic only if all values are > 0."""
    course = course.dropna(subset=["value"])
    if len(course) < 2:
        return None
    values, samples = course["value"].tolist(), course["samples"].tolist()
    heights = [math.log(value) for value in values] if logarithmic and min(values) > 0 else values
    low, span = min(heights), max(heights) - min(heights) or 1.0
    first, wide = samples[0], samples[-1] - samples[0] or 1
    shown = np.linspace(0, len(course) - 1, min(len(course), _POINTS)).round().astype(int)
    positions = ((WIDTH * (samples[point] - first) / wide, HEIGHT * (1 - (heights[point] - low) / span))
                 for point in shown)  # fmt: skip
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    lowest, highest, last = (f"{value:.4g}" for value in (min(values), max(values), values[-1]))
    return Course(title, points, lowest, highest, last, samples[-1])
