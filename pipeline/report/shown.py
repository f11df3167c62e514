"""Tables as a reader sees them: each cell its text, what it is sorted by, and where it leads."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report.table2 import HEADER, SORTED_BY, shown_rows

_PERCENT = ("efficiency", "lost", "share")
_DIGITS = {"rmse_hu": "2f", "mse": "2e", "psnr": "2f", "ssim": "4f", "ms_ssim": "4f"}
_IDS = ("cell", "model", "baseline", "item")


class Shown(NamedTuple):
    """One cell: ``key`` is the number that it is sorted by, if it is one; ``leads_to`` the training it names."""

    text: str
    key: float | None = None
    leads_to: str = ""


class ShownTable(NamedTuple):
    """Header and rows."""

    header: list[str]
    rows: list[list[Shown]]


def show(table: pd.DataFrame, columns: Sequence[str] | None, known: Collection[str]) -> ShownTable:
    """The columns that there are of those named, or all; ``known``: the trainings that have a page of their own."""
    kept = [str(name) for name in table if columns is None or name in columns]
    kept = kept if columns is None else sorted(kept, key=list(columns).index)
    rows = [[_shown(name, value, known) for name, value in zip(kept, row, strict=True)]
            for row in table[kept].itertuples(index=False)]  # fmt: skip
    return ShownTable([name.replace("_", " ") for name in kept], rows)


def show_quality(quality: pd.DataFrame, known: Collection[str]) -> ShownTable:
    """Mean and SD of each metric in one cell, sorted by the mean; further columns as they are."""
    before = show(quality, ["model", "scans", "slices", "rmse_change", "beats_input"], known)
    metrics = [metric for metric in _DIGITS if f"{metric}_mean" in quality]
    header = [*before.header, *(metric.replace("_", " ") for metric in metrics)]
    figures = zip(*([_with_sd(metric, *pair) for pair in _pairs(quality, metric)] for metric in metrics), strict=True)
    return ShownTable(header, [[*row, *more] for row, more in zip(before.rows, figures, strict=True)])


def show_table2(table: pd.DataFrame) -> ShownTable:
    """As in its Markdown, sorted by the figures behind the text."""
    texts, keys = shown_rows(table, "±"), table[list(SORTED_BY)].itertuples(index=False)
    return ShownTable(list(HEADER), [
        [Shown(text, _key(key)) for text, key in zip(row, row_keys, strict=True)]
        for row, row_keys in zip(texts, keys, strict=True)
    ])  # fmt: skip


def _key(value: Any) -> float | None:
    return None if isinstance(value, str) or pd.isna(value) else float(value)


def _pairs(quality: pd.DataFrame, metric: str) -> list[tuple[float, float]]:
    return list(zip(quality[f"{metric}_mean"], quality[f"{metric}_sd"], strict=True))


def _with_sd(metric: str, mean: float, sd: float) -> Shown:
    return Shown(f"{mean:.{_DIGITS[metric]}} ± {sd:.{_DIGITS[metric]}}", mean)


def _shown(column: str, value: Any, known: Collection[str]) -> Shown:
    if pd.isna(value):
        return Shown("")
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return Shown(str(value), None, str(value) if column in _IDS and value in known else "")
    return Shown(_number(column, value), float(value))


def _number(column: str, value: Any) -> str:
    if column == "rmse_change":
        return f"{100 * value:+.1f} %"
    if column.startswith(_PERCENT):
        return f"{100 * value:.0f} %"
    if column.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
