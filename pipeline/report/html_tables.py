"""Tables as a reader sees them: each cell its text, what it is sorted by, and where it leads."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report.table2 import HEADER, SORTED_BY, shown_rows

_PERCENT = {"rmse_change", *(f"{name}{end}" for name in ("efficiency", "lost") for end in ("", "_low", "_high"))}
_METRICS = {"rmse_hu": "2f", "mse": "2e", "psnr": "2f", "ssim": "4f", "ms_ssim": "4f"}
_OF_SCANS = {"noise_sd": "noise SD (HU)", "sharpness": "sharpness", "bias_lung": "lung bias (HU)",
             "bias_soft": "soft tissue bias (HU)", "bias_bone": "bone and contrast bias (HU)"}  # fmt: skip
_TITLES = {**_OF_SCANS, "psnr": "PSNR (dB)", "mse": "MSE", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "rmse_hu": "RMSE (HU)"}
_UNITS = {"seconds": "(s)", "hu": "(HU)", "mm": "(mm)", "bytes": "(GiB)"}
_IDS = ("cell", "baseline", "item")


class Shown(NamedTuple):
    """One cell: ``key`` is the number that it is sorted by, if it is one; ``leads_to`` the training it names."""

    text: str
    key: float | None = None
    leads_to: str = ""


class ShownTable(NamedTuple):
    """Header and rows."""

    header: list[str]
    rows: list[list[Shown]]

    def numeric(self) -> list[bool]:
        """Of each column, whether any of its cells is a number."""
        return [any(cell.key is not None for cell in column) for column in zip(*self.rows, strict=True)]


def show(
    table: pd.DataFrame, columns: Sequence[str] | None, known: Collection[str], ids: Collection[str] = _IDS
) -> ShownTable:
    """The columns that there are of those named, or all; those of ``ids`` lead to the trainings that are ``known``."""
    kept = [str(name) for name in table] if columns is None else [name for name in columns if name in table]
    rows = [[_shown(name, value, known if name in ids else ()) for name, value in zip(kept, row, strict=True)]
            for row in table[kept].itertuples(index=False)]  # fmt: skip
    return ShownTable([heading(name) for name in kept], rows)


def show_quality(quality: pd.DataFrame, known: Collection[str]) -> ShownTable:
    """Mean and SD of each metric in one cell, sorted by the mean; then what is a mean over scans."""
    before = show(quality, ["model", "scans", "slices", "rmse_change", "beats_input"], known, ("model",))
    figures = zip(*([_with_sd(*pair, digits) for pair in _pairs(quality, metric)]
                    for metric, digits in _METRICS.items()), strict=True)  # fmt: skip
    after = show(quality, [*_OF_SCANS], ())
    return ShownTable(
        [*before.header, *(heading(metric) for metric in _METRICS), *after.header],
        [[*row, *more, *rest] for row, more, rest in zip(before.rows, figures, after.rows, strict=True)],
    )


def _pairs(quality: pd.DataFrame, metric: str) -> list[tuple[float, float]]:
    return list(zip(quality[f"{metric}_mean"], quality[f"{metric}_sd"], strict=True))


def _with_sd(mean: float, sd: float, digits: str) -> Shown:
    return Shown(f"{mean:.{digits}} ± {sd:.{digits}}", mean)


def show_table2(table: pd.DataFrame) -> ShownTable:
    """As in its Markdown, sorted by the figures behind the text."""
    texts, keys = shown_rows(table, "±"), table[list(SORTED_BY)].itertuples(index=False)
    return ShownTable(list(HEADER), [
        [Shown(text, _key(key)) for text, key in zip(row, row_keys, strict=True)]
        for row, row_keys in zip(texts, keys, strict=True)
    ])  # fmt: skip


def _shown(column: str, value: Any, known: Collection[str]) -> Shown:
    return Shown(text_of(column, value), _key(value), value if value in known else "")


def _key(value: Any) -> float | None:
    return None if pd.isna(value) or not hasattr(value, "__float__") else float(value)


def heading(column: str) -> str:
    """A column's name in words, with its unit."""
    name, _, unit = column.rpartition("_")
    return _TITLES.get(column) or (f"{name} {_UNITS[unit]}" if unit in _UNITS else column).replace("_", " ")


def text_of(column: str, value: Any) -> str:
    """A value as its column's unit wants it; nothing for what is unknown."""
    if pd.isna(value):
        return ""
    if column in _PERCENT:
        return f"{100 * value:{'+' if column == 'rmse_change' else ''}.1f} %"
    if column.endswith("_bytes"):
        return f"{value / 2**30:.2f}"
    if not hasattr(value, "is_integer") or isinstance(value, int):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
