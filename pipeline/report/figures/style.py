"""The look of figures, and their files."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from data_prep.files import replacing
from pipeline.scaling.points import CONDITIONS, SERIES_SETTINGS
from pipeline.settings.names import FigureFormat

mpl.use("agg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers can distinguish."""
BLACK = "#000000"  # of the same palette; for the baseline
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"
DPI = 300
LINE_INCHES = 0.16  # of a legend
LETTER_INCHES = 0.07  # of a tick's label
_METADATA: Mapping[FigureFormat, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata that keep the same figure the same file."""
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3, and texts stay texts
    "svg.hashsalt": "quarterdose",  # the same figure is the same file
}
_LABELS = {
    "network": "{}",
    "slices": "{} slices",
    "sampling": "{}",
    "transfer": "transfer {}",
    "epochs": "{} epochs",
    "work": "{} scaling",
    **CONDITIONS,
    "law": "{}",
    "dataset": "{}",
}


def new_figure() -> Figure:
    """Return an empty figure of a journal's width, 7 inches; drawing functions may change its size."""
    figure = Figure(figsize=(7, 3), dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.04)
    return figure


def styled() -> Any:
    """Return the context manager in which figures are drawn and saved."""
    return mpl.rc_context(_STYLE)


def figure_path(path: Path, file_format: FigureFormat) -> Path:
    """Return the file of a figure; its name may have dots."""
    return path.with_name(f"{path.name}.{file_format}")


def save(figure: Figure, path: Path, formats: Sequence[FigureFormat]) -> None:
    """Write the figure to ``path`` with the ending of each format; PNG has 300 dots an inch. No file holds a date.

    It is laid out once, the same for all of them: that takes longer than drawing it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # after "none" matplotlib would draw it twice for each file
    for file_format in formats:
        with replacing(figure_path(path, file_format)) as temporary:
            figure.savefig(temporary, format=file_format, dpi=DPI, metadata=_METADATA[file_format])


def style(number: int) -> tuple[str, str]:
    """Return colour and mark of the line with this number; the first 42 all differ."""
    turn, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], MARKS[(colour + turn) % len(MARKS)]


def lines(table: pd.DataFrame, columns: Sequence[str] = SERIES_SETTINGS) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield label and rows of each line, the fewest slices first.

    A line is a combination of settings, labelled by those in which lines differ.
    """
    settings = [name for name in columns if name in table]
    table = table.sort_values([name for name in ("slices", "epochs") if name in settings], kind="stable")
    differing = [name for name in settings if table[name].nunique() > 1] or settings[:1]
    for values, group in table.groupby(settings, sort=False):
        named = dict(zip(settings, values, strict=True))
        yield ", ".join(_LABELS[name].format(named[name]) for name in differing), group


def draw_line(ax: Axes, table: pd.DataFrame, y: str, number: int, label: str, scale: float = 1.0) -> None:
    """Draw column ``y`` against ranks, with the band from ``<y>_low`` to ``<y>_high`` if the table has these."""
    colour, mark = style(number)
    table = table.sort_values("ranks")
    ranks, middle = table["ranks"], scale * table[y]
    ax.plot(ranks, middle, color=colour, marker=mark, label=label)
    if f"{y}_low" not in table:
        return
    low, high = scale * table[f"{y}_low"], scale * table[f"{y}_high"]
    ax.fill_between(ranks, low, high, color=colour, alpha=0.18, lw=0)
    ax.errorbar(ranks, middle, [middle - low, high - middle], color=colour, lw=0, elinewidth=0.8, capsize=2)


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int = 3) -> None:
    """Add a legend below the panels, of fewer columns where the labels are too long for these.

    The figure grows by its lines from the third on, and the panels stay as high; it is as wide as the longest label.
    """
    legend = _legend(figure, handles, columns)
    while columns > 1 and legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        columns -= 1
        legend = _legend(figure, handles, columns)
    width, height = figure.get_size_inches()
    further = max(0, math.ceil(len(handles) / columns) - 2)
    longest = legend.get_window_extent().width / figure.dpi
    figure.set_size_inches(width if longest <= width else longest + LINE_INCHES, height + LINE_INCHES * further)


def _legend(figure: Figure, handles: Sequence[Artist], columns: int) -> Legend:
    return figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def hollow_mark() -> Line2D:
    """Return a legend's entry of trainings that other work disturbed."""
    return Line2D([], [], color=GREY, marker="o", ls="", mfc="white", label="disturbed by other work")


def rank_axis(ax: Axes, ranks: Sequence[int]) -> None:
    """Scale the x-axis by log2, with a tick at each of the rank counts."""
    ax.set_xscale("log", base=2)
    ticks = sorted({int(count) for count in ranks})
    ax.set_xticks(ticks, [str(count) for count in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    ax.set_xlabel("ranks")


def letter(ax: Axes, number: int, title: str) -> None:
    """Set the title of the panel with this number, after its letter: a to z, then aa, ab ..."""
    turn, rest = divmod(number, len(ascii_lowercase))
    ax.set_title(f"({ascii_lowercase[turn - 1] if turn else ''}{ascii_lowercase[rest]}) {title}", loc="left")
