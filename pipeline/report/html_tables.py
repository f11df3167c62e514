"""Tables of the page: each cell has its text, the number that it is sorted by, and the training that it links to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd

from pipeline.quality.measures import (
    MEASURES,
    RANKED_BY,
    SCAN_MEASURES,
    SLAB_MEASURES,
    Measure,
    names,
    shown_in,
    slice_measures,
)
from pipeline.report.table2 import HEADER, SORTED_BY, shown_rows
from pipeline.report.tables import records

_PERCENT = {
    "rmse_change",
    *(f"{name}{end}" for name in ("efficiency", "lost", "error") for end in ("", "_low", "_high")),
}
_RANKED = MEASURES[0]
_TITLED = {measure.name: measure for measure in (_RANKED, *SLAB_MEASURES, *SCAN_MEASURES)}
_MEASURES = _TITLED | dict.fromkeys((f"{RANKED_BY}_mean", f"{RANKED_BY}_sd"), _RANKED)
_TITLES = {name: measure.title for name, measure in _TITLED.items()} | {
    "noise_full_hu": "own noise (HU)", "noise_added_hu": "added noise (HU)",
    "noise_ratio": "added / expected noise", "noise_remark": "remark on noise",
    "rmse_hu_mean": "RMSE (HU)", "rmse_hu_sd": "its SD over slices (HU)",
}  # fmt: skip
_UNITS = {"seconds": "(s)", "ms": "(ms)", "hu": "(HU)", "mm": "(mm)", "bytes": "(GiB)"}
_IDS = ("cell", "baseline", "item")
_IN_ROWS = ("fitted", "assumed", "reason")  # what a forecast rests on, and why it is missing, stand beside it
_DIGITS = 8  # of the digest of the scans, which the CSV files have whole
MOST_ROWS = 2000
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Shown(NamedTuple):
    """Cell of a table: ``key`` is the number it is sorted by, None for text; ``leads_to`` the training it names."""

    text: str
    key: float | None = None
    leads_to: str = ""


@dataclass(frozen=True)
class Column:
    """Column of a table."""

    title: str
    cells: Sequence[Shown]

    @cached_property
    def is_numeric(self) -> bool:
        """Whether any of its cells is a number."""
        return any(cell.key is not None for cell in self.cells)

    @property
    def is_common(self) -> bool:
        """Whether all rows, and there are several, say the same or nothing."""
        if len(self.cells) < 2 or len(set(self.cells)) > 1:
            return False
        return self.is_empty or not (self.title in _IN_ROWS or self.cells[0].leads_to)

    @property
    def is_empty(self) -> bool:
        """Whether no row says anything."""
        return not any(cell.text for cell in self.cells)


class ShownTable(NamedTuple):
    """Table of the page. ``common``: columns that say the same in every row; they become a line above the others."""

    columns: Sequence[Column]
    common: Sequence[Column] = ()

    @property
    def rows(self) -> list[tuple[Shown, ...]]:
        """Cells of each row, without the common columns; of very many the first, as a browser hardly shows them all."""
        return list(islice(zip(*(column.cells for column in self.columns), strict=True), MOST_ROWS))

    @property
    def length(self) -> int:
        """Number of all rows."""
        return len(self.columns[0].cells) if self.columns else 0


def show(
    table: pd.DataFrame, columns: Sequence[str] | None, cells: Collection[str], ids: Collection[str] = _IDS
) -> ShownTable:
    """Show a table's ``columns`` as far as it has them, or all; names of ``cells`` in the columns ``ids`` are links.

    An interval, in columns that end in ``_low`` and ``_high``, stands in brackets behind its number.
    """
    return _without_common(_columns(table, columns, cells, ids))


def _without_common(columns: Sequence[Column]) -> ShownTable:
    """Part the columns behind the first into those that differ between rows and those that do not."""
    first, behind = columns[:1], columns[1:]
    return ShownTable([*first, *(column for column in behind if not column.is_common)],
                      [column for column in behind if column.is_common])  # fmt: skip


def _columns(
    table: pd.DataFrame, names: Sequence[str] | None, cells: Collection[str], ids: Collection[str] = _IDS
) -> list[Column]:
    names = [str(name) for name in table] if names is None else [name for name in names if name in table]
    ends = {f"{name}{end}" for name in names for end in ("_low", "_high")}
    rows = records(table)
    return [
        Column(
            f"{heading(name)} [95\u00a0%]" if f"{name}_low" in table else heading(name),
            [_shown(name, row, cells if name in ids else ()) for row in rows],
        )
        for name in names if name not in ends
    ]  # fmt: skip


def show_quality(quality: pd.DataFrame, cells: Collection[str]) -> ShownTable:
    """Show the table of models: measures of slices as mean and SD, sorted by the mean; then means over scans."""
    of_slices, rows = slice_measures("page"), records(quality)
    of_scans = names(measure for measure in shown_in("page") if measure not in of_slices)
    return _without_common([
        *_columns(quality, ["model", "dose", "scans", "slices", "rmse_change", "beats_input"], cells, ("model",)),
        *(Column(measure.title, [_with_sd(row, measure) for row in rows]) for measure in of_slices),
        *_columns(quality, of_scans, ()),
    ])  # fmt: skip


def show_datasets(datasets: pd.DataFrame, cells: Collection[str]) -> ShownTable:
    """Show the page's measures by data set, over scans: mean, SD and in brackets the interval of the mean."""
    rows = records(datasets)
    return _without_common([
        *_columns(datasets, ["model", "dose", "part", "dataset", "scans", "patients"], cells, ("model",)),
        *(Column(measure.title, [_with_interval(row, measure) for row in rows]) for measure in shown_in("page")),
    ])  # fmt: skip


def _with_sd(row: Mapping[str, Any], measure: Measure) -> Shown:
    """Write mean and SD; empty without a mean, and the mean alone where there is a single number."""
    mean, sd = row[f"{measure.name}_mean"], row[f"{measure.name}_sd"]
    spread = "" if pd.isna(sd) else f" ± {measure.text(sd)}"
    return Shown("" if pd.isna(mean) else f"{measure.text(mean)}{spread}", _key(mean))


def _with_interval(row: Mapping[str, Any], measure: Measure) -> Shown:
    shown, ends = _with_sd(row, measure), [row[f"{measure.name}{end}"] for end in ("_low", "_high")]
    return shown._replace(text=shown.text + _brackets([measure.text(end) for end in ends if not pd.isna(end)]))


def show_table2(table: pd.DataFrame) -> ShownTable:
    """Show Table 2 with the texts of its Markdown, sorted by the numbers behind them."""
    texts, keys = zip(*shown_rows(table, "±"), strict=True), (table[name] for name in SORTED_BY)
    return ShownTable([
        Column(title, [Shown(text, _key(key)) for text, key in zip(column, column_keys, strict=True)])
        for title, column, column_keys in zip(HEADER, texts, keys, strict=True)
    ])  # fmt: skip


def _shown(column: str, row: Mapping[str, Any], cells: Collection[str]) -> Shown:
    value, ends = row[column], [row.get(f"{column}{end}") for end in ("_low", "_high")]
    interval = _brackets([text_of(column, end) for end in ends if not pd.isna(end)])
    return Shown(text_of(column, value) + interval, _key(value), value if value in cells else "")


def _brackets(ends: Sequence[str]) -> str:
    return f" [{', '.join(ends)}]" if ends else ""


def _key(value: Any) -> float | None:
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    return float(value) if is_number and not pd.isna(value) else None


def heading(column: str) -> str:
    """Write a column's name in words, with its unit."""
    name, _, unit = column.rpartition("_")
    return _TITLES.get(column) or (f"{name} {_UNITS[unit]}" if name and unit in _UNITS else column).replace("_", " ")


def text_of(column: str, value: Any) -> str:
    """Write a value in the format of its column's unit, as papers do: 4.25 x 10⁻⁵; a missing value is an empty text."""
    if pd.isna(value):
        return ""
    if column == "data":
        return str(value)[:_DIGITS]
    if column in _MEASURES:
        return _MEASURES[column].text(value)
    if column in _PERCENT:
        return f"{100 * value:{'+' if column == 'rmse_change' else ''}z.1f} %"
    if column.endswith("_bytes"):
        return f"{value / 2**30:.2f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not hasattr(value, "is_integer") or isinstance(value, int):
        return str(value)
    if 0 < abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(_RAISED)}"
    return f"{value:z.0f}" if value.is_integer() or abs(value) >= 1e3 else f"{value:.4g}"
