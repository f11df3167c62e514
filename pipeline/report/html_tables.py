"""Tables of the page: each cell has its text, the number that it is sorted by, and the training that it links to."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pandas as pd

from pipeline.quality.measures import MEASURES, SliceMeasure, names, shown_in, slice_measures
from pipeline.report.table2 import HEADER, SORTED_BY, shown_rows
from pipeline.report.tables import records

_PERCENT = {"rmse_change", *(f"{name}{end}" for name in ("efficiency", "lost") for end in ("", "_low", "_high"))}
_TITLES = {measure.name: measure.title for measure in MEASURES}
_UNITS = {"seconds": "(s)", "hu": "(HU)", "mm": "(mm)", "bytes": "(GiB)"}
_IDS = ("cell", "baseline", "item")


class Shown(NamedTuple):
    """Cell of a table: ``key`` is the number it is sorted by, None for text; ``leads_to`` the training it names."""

    text: str
    key: float | None = None
    leads_to: str = ""


class ShownTable(NamedTuple):
    """Table with a header."""

    header: list[str]
    rows: list[list[Shown]]

    def numeric(self) -> list[bool]:
        """Tell of each column whether any of its cells is a number."""
        return [any(cell.key is not None for cell in column) for column in zip(*self.rows, strict=True)]


def show(
    table: pd.DataFrame, columns: Sequence[str] | None, cells: Collection[str], ids: Collection[str] = _IDS
) -> ShownTable:
    """Show a table's ``columns`` as far as it has them, or all; names of ``cells`` in the columns ``ids`` are links."""
    columns = [str(name) for name in table] if columns is None else [name for name in columns if name in table]
    rows = [[_shown(name, value, cells if name in ids else ()) for name, value in zip(columns, row, strict=True)]
            for row in table[columns].itertuples(index=False)]  # fmt: skip
    return ShownTable([heading(name) for name in columns], rows)


def show_quality(quality: pd.DataFrame, cells: Collection[str]) -> ShownTable:
    """Show the table of models: measures of slices as mean and SD, sorted by the mean; then means over scans."""
    of_slices = slice_measures("page")
    of_scans = names(measure for measure in shown_in("page") if measure not in of_slices)
    parts = [
        show(quality, ["model", "scans", "slices", "rmse_change", "beats_input"], cells, ("model",)),
        ShownTable(
            [measure.title for measure in of_slices],
            [[_with_sd(row, measure) for measure in of_slices] for row in records(quality)],
        ),
        show(quality, of_scans, ()),
    ]
    rows = zip(*(part.rows for part in parts), strict=True)
    return ShownTable([*chain(*(part.header for part in parts))], [[*chain(*row)] for row in rows])


def _with_sd(row: Mapping[str, Any], measure: SliceMeasure) -> Shown:
    mean, sd = row[f"{measure.name}_mean"], row[f"{measure.name}_sd"]
    return Shown(f"{mean:.{measure.digits}} ± {sd:.{measure.digits}}", mean)


def show_table2(table: pd.DataFrame) -> ShownTable:
    """Show Table 2 with the texts of its Markdown, sorted by the numbers behind them."""
    texts, keys = shown_rows(table, "±"), table[list(SORTED_BY)].itertuples(index=False)
    return ShownTable(list(HEADER), [
        [Shown(text, _key(key)) for text, key in zip(row, row_keys, strict=True)]
        for row, row_keys in zip(texts, keys, strict=True)
    ])  # fmt: skip


def _shown(column: str, value: Any, cells: Collection[str]) -> Shown:
    return Shown(text_of(column, value), _key(value), value if value in cells else "")


def _key(value: Any) -> float | None:
    return None if pd.isna(value) or not hasattr(value, "__float__") else float(value)


def heading(column: str) -> str:
    """Write a column's name in words, with its unit."""
    name, _, unit = column.rpartition("_")
    return _TITLES.get(column) or (f"{name} {_UNITS[unit]}" if unit in _UNITS else column).replace("_", " ")


def text_of(column: str, value: Any) -> str:
    """Write a value in the format of its column's unit; a missing value is an empty text."""
    if pd.isna(value):
        return ""
    if column in _PERCENT:
        return f"{100 * value:{'+' if column == 'rmse_change' else ''}.1f} %"
    if column.endswith("_bytes"):
        return f"{value / 2**30:.2f}"
    if not hasattr(value, "is_integer") or isinstance(value, int):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
