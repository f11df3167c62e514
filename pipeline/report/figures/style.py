"""How figures look, and how they are saved."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from data_prep.files import replacing

mpl.use("agg")
# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK = "#000000"  # theirs too; for what all else is measured by
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"
DPI = 300
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
    "svg.hashsalt": "quarterdose",  # the same figure is the same file
}
_SETTINGS = {
    "slices": "{} slices",
    "sampling": "{}",
    "transfer": "transfer {}",
    "epochs": "{} epochs",
    "work": "{} scaling",
    "law": "{}",
    "dataset": "{}",
}
VARIANT = ("slices", "sampling", "transfer", "epochs", "work")
"""The settings of a study's grid that make a line of their own."""


def new_figure() -> Figure:
    """A figure of a journal's width, 7 inches; whoever draws sets its size."""
    figure = Figure(figsize=(7, 3))
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.04)
    return figure


def styled() -> Any:
    """The context in which figures are drawn and saved."""
    return mpl.rc_context(_STYLE)


def save(figure: Figure, path: Path) -> None:
    """Write ``path`` with the endings .png (300 dots an inch) and .svg."""
    for ending, metadata in ((".png", {}), (".svg", {"Date": None})):
        with replacing(path.with_name(path.name + ending)) as temporary:
            figure.savefig(temporary, format=ending[1:], dpi=DPI, metadata=metadata)


def style(number: int) -> tuple[str, str]:
    """Colour and mark of a line, no two alike among the first 42."""
    turn, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], MARKS[(colour + turn) % len(MARKS)]


def lines(table: pd.DataFrame, columns: Sequence[str] = VARIANT) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each line, in order, and its label: those of its settings that not all lines share."""
    known = [name for name in columns if name in table]
    told = [name for name in known if table[name].nunique() > 1] or known[:1]
    for values, group in table.groupby(known, sort=False):
        named = dict(zip(known, values, strict=True))
        yield ", ".join(_SETTINGS[name].format(named[name]) for name in told), group


def draw_line(ax: Axes, table: pd.DataFrame, y: str, number: int, label: str, scale: float = 1.0) -> None:
    """``y`` against ranks, with the band between ``<y>_low`` and ``<y>_high`` where these are known."""
    colour, mark = style(number)
    table = table.sort_values("ranks")
    ranks, middle = table["ranks"], scale * table[y]
    ax.plot(ranks, middle, color=colour, marker=mark, label=label)
    if f"{y}_low" not in table:
        return
    low, high = scale * table[f"{y}_low"], scale * table[f"{y}_high"]
    ax.fill_between(ranks, low, high, color=colour, alpha=0.18, lw=0)
    ax.errorbar(ranks, middle, [middle - low, high - middle], color=colour, lw=0, elinewidth=0.8, capsize=2)


def rank_axis(ax: Axes, ranks: Sequence[int]) -> None:
    """A doubling of ranks is a step to the right; ticks stand at the ranks there are."""
    ax.set_xscale("log", base=2)
    ticks = sorted({int(count) for count in ranks})
    ax.set_xticks(ticks, [str(count) for count in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    ax.set_xlabel("ranks")


def letter(ax: Axes, number: int, title: str) -> None:
    """A panel's letter and title."""
    ax.set_title(f"({chr(ord('a') + number)}) {title}", loc="left")
