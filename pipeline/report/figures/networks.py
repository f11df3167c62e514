"""Figure of which network is worth its hours: error against what a network costs."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.report.figures.style import GREY, legend_below, letter, style
from pipeline.report.results import NothingToDraw, Results

_PANELS = {
    "total_hours": ("hours", "{}-hours, with those of donor and search"), "parameters": ("size", "parameters"),
    "peak_bytes": ("memory", "peak of a rank in training (GiB)"), "slice_ms": ("speed", "denoising of a slice (ms)"),
}  # fmt: skip
_GIB = 2**30
_LEAST_SPAN, _WIDE_SPAN = 8, 200  # of an axis, its upper end over its lower one


def draw_networks(figure: Figure, results: Results) -> None:
    """Draw error, as a share of the input's, against hours, parameters, memory and speed: a mark a kind of training.

    Reads ``networks``. A line joins what no other training beats in both hours and error. Grey and broken: classical
    denoisers.
    """
    table = results.table("networks", "nothing was judged on the held-out slices")
    trained = table[table["hours_of"] != ""]
    if trained.empty:
        raise NothingToDraw("no network was trained and judged")
    figure.set_size_inches(7, 5.4)
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for number, (ax, (cost, (title, label))) in enumerate(zip(panels, _PANELS.items(), strict=True)):
        _draw_panel(ax, table, cost)
        unit = " and ".join(trained["hours_of"].unique())
        ax.set(xscale="log", xlabel=label.format(unit), ylabel="RMSE (% of the input's)" if number % 2 == 0 else "")
        _set_ticks(ax)
        letter(ax, number, title)
    _draw_front(panels[0], trained)
    legend_below(figure, panels[0].get_legend_handles_labels()[0])


def _draw_panel(ax: Axes, table: pd.DataFrame, cost: str) -> None:
    for dashes, row in zip(("--", ":"), table[table["hours_of"] == ""].iloc[1:].to_dict("records"), strict=False):
        ax.axhline(100 * row["error"], color=GREY, ls=dashes, lw=0.8, label=row["title"])
    for number, row in enumerate(table[table["hours_of"] != ""].to_dict("records")):
        colour, mark = style(number)
        x = row[cost] / (_GIB if cost == "peak_bytes" else 1)
        label = f"{row['title']} ({row['cell']})"
        ax.plot(x, 100 * row["error"], mark, color=colour, label=label, mfc=colour if row["on_front"] else "white")
        if pd.notna(row["error_low"]):
            ax.plot([x, x], [100 * row["error_low"], 100 * row["error_high"]], color=colour, lw=0.8)


def _set_ticks(ax: Axes) -> None:
    """Set a few ticks at round numbers; a narrow axis is widened until it has two of them, and none would overlap."""
    low, high = ax.get_xlim()
    widening = math.sqrt(max(1.0, _LEAST_SPAN * low / high))
    ax.set_xlim(low / widening, high * widening)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _WIDE_SPAN else (1,)))
    ax.xaxis.set_major_formatter(_plain)
    ax.xaxis.set_minor_locator(NullLocator())


def _plain(number: float, _: float) -> str:
    """Write a tick's number, from a thousand on with its unit."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def _draw_front(ax: Axes, trained: pd.DataFrame) -> None:
    """Join what is on the front, hours of GPUs and of CPUs apart."""
    for _, front in trained[trained["on_front"].astype(bool)].sort_values("total_hours").groupby("hours_of"):
        ax.plot(front["total_hours"], 100 * front["error"], color=GREY, lw=0.8, zorder=0)
