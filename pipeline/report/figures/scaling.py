"""Figures of how training scales: efficiency, where it was lost, and what more ranks would bring."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.report.figures.style import GREY, draw_line, letter, lines, rank_axis, style
from pipeline.report.paper import TABLE_2
from pipeline.report.results import NothingToDraw, Results
from pipeline.scaling.points import GRID_SETTINGS


def draw_speed_up(figure: Figure, results: Results) -> None:
    """Draw speed-up and efficiency against ranks, with bands, the ideal, and the paper's 16 slices.

    Reads ``speedup``: ``slices, sampling, transfer, work, ranks, speed_up, efficiency`` and, where measured,
    the intervals ``speed_up_low, speed_up_high, efficiency_low, efficiency_high``; a row a line and rank count.
    """
    speed = _of_several_ranks(results)
    figure.set_size_inches(7, 3)
    left, right = figure.subplots(1, 2)
    ranks = sorted(speed["ranks"].unique())
    left.plot(ranks, ranks, color=GREY, ls="--", lw=0.8, label="ideal")
    right.axhline(100, color=GREY, ls="--", lw=0.8)
    for number, (label, group) in enumerate(lines(speed)):
        draw_line(left, group, "speed_up", number, label)
        draw_line(right, group, "efficiency", number, label, 100)
    _draw_paper(left, right, ranks)
    left.set_yscale("log", base=2)
    left.set(ylabel="speed-up", yticks=ranks, yticklabels=ranks)
    right.set(ylabel="efficiency (%)", ylim=(0, None))
    for number, (ax, title) in enumerate(((left, "speed-up"), (right, "efficiency"))):
        rank_axis(ax, ranks)
        letter(ax, number, title)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _of_several_ranks(results: Results) -> pd.DataFrame:
    """Return the lines of ``speedup`` that have several rank counts: with a single one the speed-up is 1."""
    reason = "no two trainings that are alike in all but their ranks are done"
    speed = results.table("speedup", reason)
    settings = [name for name in GRID_SETTINGS if name in speed]
    shown = speed[speed.groupby(settings)["ranks"].transform("nunique") > 1]
    if shown.empty:
        raise NothingToDraw(reason)
    return shown


def _draw_paper(left: Axes, right: Axes, ranks: Sequence[int]) -> None:
    """Draw the paper's own speed-up with 16 slices, at the rank counts that were measured here."""
    times = {row.ranks: row.seconds for row in TABLE_2 if row.slices == 16}
    speed = {count: times[1] / seconds for count, seconds in times.items() if count in ranks}
    marks: Any = {"color": GREY, "marker": "x", "ls": ""}
    left.plot(list(speed), list(speed.values()), label="paper, 16 slices, A100", **marks)
    right.plot(list(speed), [100 * gained / count for count, gained in speed.items()], **marks)


def draw_attribution(figure: Figure, results: Results) -> None:
    """Draw where the efficiency went: a bar a line and rank count, a part of the bar a cause.

    Reads ``attribution``: ``slices, sampling, ranks, cause, lost``. ``lost`` is the share of the ranks' time that the
    cause took (0.05: five per cent), below 0 where it gained.
    """
    reason = "no control arm was trained, so nothing says where the time went"
    table = results.table("attribution", reason).dropna(subset="lost")
    if table.empty:
        raise NothingToDraw(reason)
    named = [
        (f"{label}, {ranks} rank{'s' if int(str(ranks)) > 1 else ''}", bar)
        for label, group in lines(table)
        for ranks, bar in group.groupby("ranks")
    ]
    causes = list(dict.fromkeys(table["cause"]))
    figure.set_size_inches(7, 1.2 + 0.28 * len(named))
    ax = figure.subplots()
    for row, (_, bar) in enumerate(named):
        _draw_bar(ax, row, 100 * bar.set_index("cause")["lost"], causes)
    ax.set_yticks(range(len(named)), [label for label, _ in named])
    ax.invert_yaxis()
    ax.axvline(0, color="black", lw=0.6)
    ax.set_xlabel("share of the ranks' time that was lost (%)")
    handles = [Patch(color=style(number)[0], label=cause) for number, cause in enumerate(causes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _draw_bar(ax: Axes, row: int, lost: "pd.Series[float]", causes: Sequence[str]) -> None:
    """Draw losses to the right of 0, one after the other, and gains to the left."""
    ends = {True: 0.0, False: 0.0}
    for cause, share in lost.items():
        ax.barh(row, share, left=ends[share < 0], color=style(causes.index(str(cause)))[0], height=0.7)
        ends[share < 0] += share


def draw_projection(figure: Figure, results: Results) -> None:
    """Draw the speed-up that fitted laws expect of more ranks, with its interval, and what was measured as marks.

    Reads ``projection``: ``law, slices, sampling, transfer, epochs, ranks, speed_up`` and, where estimated,
    ``speed_up_low, speed_up_high``; the marks are from ``speedup``.
    """
    table = results.table("projection", "too few rank counts were measured to fit a law")
    speed = _of_several_ranks(results)
    figure.set_size_inches(7, 4.4)
    ax = figure.subplots()
    ranks = sorted({*table["ranks"], *speed["ranks"]})
    ax.plot(ranks, ranks, color=GREY, ls="--", lw=0.8, label="ideal")
    for number, (label, group) in enumerate(lines(table, ["law", *GRID_SETTINGS])):
        _draw_law(ax, group.sort_values("ranks"), number, label)
    for number, (label, group) in enumerate(lines(speed)):
        ax.plot(group["ranks"], group["speed_up"], color="black", marker=style(number)[1], ls="", mfc="none",
                label=f"measured: {label}")  # fmt: skip
    ax.axvline(speed["ranks"].max(), color=GREY, lw=0.6)
    ax.annotate(" extrapolated", (speed["ranks"].max(), 0.02), xycoords=("data", "axes fraction"), color=GREY)
    ax.set_yscale("log", base=2)
    rank_axis(ax, [2**power for power in range(int(np.log2(ranks[0])), int(np.log2(ranks[-1])) + 1)])
    ax.set(ylabel="speed-up", yticks=ax.get_xticks(), yticklabels=[f"{tick:g}" for tick in ax.get_xticks()])
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _draw_law(ax: Axes, group: pd.DataFrame, number: int, label: str) -> None:
    colour, _ = style(number)
    ax.plot(group["ranks"], group["speed_up"], color=colour, label=label)
    if "speed_up_low" in group:
        ax.fill_between(group["ranks"], group["speed_up_low"], group["speed_up_high"], color=colour, alpha=0.15, lw=0)
