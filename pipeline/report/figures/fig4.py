"""Figure 4 of the paper: training time and accuracy against ranks, a panel a slice count, the fewest slices first."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.style import GREY, draw_line, hollow_mark, legend_below, letter, lines, rank_axis, style
from pipeline.report.results import NothingToDraw, Results
from pipeline.scaling.disturbance import YES
from pipeline.scaling.points import SERIES_SETTINGS
from pipeline.settings.names import LOW_DOSE_INPUT

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_IN_ROW = 4  # panels
_HEADROOM = 1.06  # of the axis over the longest training, so that its mark is whole
_IN_PANEL = [name for name in SERIES_SETTINGS if name != "slices"]


def draw_time(figure: Figure, results: Results) -> None:
    """Draw Fig 4 a, b: training time against ranks."""
    cells = results.trained()
    panels = _panels(figure, cells)
    longest = cells["training_seconds"].max()
    divisor, unit = next((unit for unit in _UNITS if longest >= 2 * unit[0]), _UNITS[-1])
    for number, (label, line) in enumerate(lines(cells, _IN_PANEL)):
        for slices, group in line.groupby("slices"):
            _draw_times(panels[slices], group, number, label, divisor)
    _finish_panels(panels, cells, f"training time ({unit})")
    legend_below(figure, [*_handles(figure), *([hollow_mark()] if (cells["disturbed"] == YES).any() else [])])
    figure.axes[0].set_ylim(0, _HEADROOM * longest / divisor)


def _draw_times(ax: Axes, group: pd.DataFrame, number: int, label: str, divisor: float) -> None:
    """Draw each training as a dot, the means as a line, and dashed the ideal.

    That is n times shorter on n times the ranks, but as long in weak scaling, where these take n times the samples.
    """
    colour, mark = style(number)
    times = group.groupby("ranks")["training_seconds"].mean() / divisor
    shares = times.index[0] / times.index if group["work"].iloc[0] == "strong" else np.ones(len(times))
    ax.plot(times.index, times.iloc[0] * shares, color=GREY, ls="--", lw=0.8, label="ideal" if number == 0 else None)
    ax.plot(times.index, times, color=colour, marker=mark, label=label)
    disturbed, dots = group[group["disturbed"] == YES], dict[str, Any](color=colour, ls="")
    ax.plot(group["ranks"], group["training_seconds"] / divisor, marker=".", alpha=0.7, **dots)
    ax.plot(disturbed["ranks"], disturbed["training_seconds"] / divisor, marker=mark, mfc="white", zorder=3, **dots)


def draw_accuracy(figure: Figure, results: Results) -> None:
    """Draw Fig 4 c, d: MS-SSIM of the held-out slices of each data set against ranks, with the low-dose input's."""
    cells, judged = results.trained(), results.judged
    if judged[judged["model"].isin(cells["cell"])].empty:
        raise NothingToDraw("no network of the study was judged on the held-out slices")
    merged = cells[["cell", "slices", "ranks", *_IN_PANEL]].merge(judged, left_on="cell", right_on="model")
    input_means = judged[judged["model"] == LOW_DOSE_INPUT].groupby("dataset")["ms_ssim"].mean()
    panels = _panels(figure, merged)
    for number, (label, line) in enumerate(lines(merged, ["dataset", *_IN_PANEL])):
        for slices, group in line.groupby("slices"):
            draw_line(panels[slices], _spread(group, "ms_ssim"), "ms_ssim", number, label)
    for ax in panels.values():
        _draw_input(ax, input_means)
    _finish_panels(panels, merged, "MS-SSIM", cells["slices"].nunique())  # after the panels of time
    legend_below(figure, _handles(figure))


def _draw_input(ax: Axes, means: "pd.Series[float]") -> None:
    for dataset, mean in means.items():
        ax.axhline(mean, color=GREY, ls=":", lw=0.9)
        label = f"input, {dataset}" if len(means) > 1 else "low-dose input"
        ax.annotate(label, (1, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6,
                    color=GREY)  # fmt: skip


def _finish_panels(panels: Mapping[Any, Axes], shown: pd.DataFrame, label: str, first: int = 0) -> None:
    """Add the axes' ticks and labels, and each panel's title; ``first``: number of the first panel's letter."""
    for panel, (slices, ax) in enumerate(panels.items()):
        rank_axis(ax, list(shown.loc[shown["slices"] == slices, "ranks"]))
        ax.set_ylabel(label if panel % _IN_ROW == 0 else "")
        letter(ax, first + panel, "2D networks" if slices == 1 else f"{slices} slices")


def _handles(figure: Figure) -> list[Artist]:
    """Return the lines of all panels for a legend, each label once."""
    handles = (handle for ax in figure.axes for handle in ax.get_legend_handles_labels()[0])
    return list({str(handle.get_label()): handle for handle in handles}.values())


def _spread(group: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean over slices at each rank count, and one SD below and above, as ``draw_line`` takes them."""
    table = group.groupby("ranks")[metric].agg(["mean", "std"]).reset_index()
    return pd.DataFrame({
        "ranks": table["ranks"], metric: table["mean"],
        f"{metric}_low": table["mean"] - table["std"], f"{metric}_high": table["mean"] + table["std"],
    })  # fmt: skip


def _panels(figure: Figure, table: pd.DataFrame) -> dict[Any, Axes]:
    """Add a panel a slice count, by that, in rows of ``_IN_ROW``, the fewest slices first."""
    counts = sorted(table["slices"].unique())
    columns, rows = min(len(counts), _IN_ROW), math.ceil(len(counts) / _IN_ROW)
    figure.set_size_inches(max(3.5 * columns, 4.5), 3 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for unused in panels[len(counts) :]:
        unused.remove()
    return dict(zip(counts, panels, strict=False))
