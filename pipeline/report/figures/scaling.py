"""Figures of how training scales: efficiency, where it was lost, and what more ranks would bring."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.report.figures.style import (
    COLOURS,
    GREY,
    draw_line,
    hollow_mark,
    legend_below,
    letter,
    lines,
    rank_axis,
    style,
)
from pipeline.report.paper import TABLE_2
from pipeline.report.results import NothingToDraw, Results
from pipeline.scaling.points import SERIES_SETTINGS

_ALARM = COLOURS[1]


def draw_speed_up(figure: Figure, results: Results) -> None:
    """Draw speed-up and efficiency against ranks, with bands, the ideal, and the paper's 16 slices.

    Reads ``speedup``: ``slices, sampling, transfer, work, ranks, baseline_ranks, speed_up, efficiency, disturbed,
    impossible`` and, where measured, the intervals ``speed_up_low, speed_up_high, efficiency_low, efficiency_high``; a
    row a line and rank count. Marks of disturbed trainings are hollow; an exclamation mark stands above what cannot be.
    """
    speed = _of_several_ranks(results)
    figure.set_size_inches(7, 3)
    left, right = figure.subplots(1, 2)
    ranks = sorted(speed["ranks"].unique())
    _draw_ideal(left, ranks, speed["baseline_ranks"])
    right.axhline(100, color=GREY, ls="--", lw=0.8)
    for number, (label, group) in enumerate(lines(speed)):
        for ax, column, scale in ((left, "speed_up", 1.0), (right, "efficiency", 100.0)):
            draw_line(ax, group, column, number, label, scale)
            _draw_marks(ax, group, column, number, scale)
    _draw_paper(left, right, ranks, int(speed["baseline_ranks"].min()))
    left.set_yscale("log", base=2)
    ticks = _powers_of_two(
        speed["speed_up"].min(), max(speed["speed_up"].max(), ranks[-1] / min(speed["baseline_ranks"]))
    )
    left.set(ylabel="speed-up over the baseline", yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    right.set(ylabel="efficiency (%)", ylim=(0, None))
    for number, (ax, title) in enumerate(((left, "speed-up"), (right, "efficiency"))):
        rank_axis(ax, ranks)
        letter(ax, number, title)
    handles = left.get_legend_handles_labels()[0]
    handles += [hollow_mark()] if speed["disturbed"].any() else []
    handles += [_alarm_mark()] if speed["impossible"].any() else []
    legend_below(figure, handles)


def _powers_of_two(lowest: float, highest: float) -> list[float]:
    """Return the powers of two around speed-ups: below 1 where more ranks were slower."""
    return [2.0**power for power in range(math.floor(math.log2(lowest)), math.ceil(math.log2(highest)) + 1)]


def _alarm_mark() -> Line2D:
    return Line2D([], [], color=_ALARM, marker="$!$", ls="", markersize=6, label="above 100 %: impossible")


def _draw_ideal(ax: Axes, ranks: Sequence[int], baselines: "pd.Series[float]") -> None:
    """Draw the ideal speed-up over each count of ranks that is a baseline."""
    for number, first in enumerate(sorted(baselines.unique())):
        reached = [count for count in ranks if count >= first]
        ax.plot(
            reached,
            [count / first for count in reached],
            color=GREY,
            ls="--",
            lw=0.8,
            label="ideal" if number == 0 else None,
        )


def _draw_marks(ax: Axes, group: pd.DataFrame, column: str, number: int, scale: float) -> None:
    """Make the marks of disturbed trainings hollow, and put an exclamation mark above what cannot be."""
    colour, mark = style(number)
    disturbed, impossible = (group[group[name] != ""] for name in ("disturbed", "impossible"))
    ax.plot(disturbed["ranks"], scale * disturbed[column], color=colour, marker=mark, ls="", mfc="white", zorder=3)
    for point in zip(impossible["ranks"], scale * impossible[column], strict=True):
        ax.annotate("!", point, (0, 5), textcoords="offset points", ha="center", weight="bold", color=_ALARM)


def _of_several_ranks(results: Results) -> pd.DataFrame:
    """Return the lines of ``speedup`` that have several rank counts: with a single one the speed-up is 1."""
    reason = "no two trainings that are alike in all but their ranks are done"
    speed = results.table("speedup", reason)
    settings = [name for name in SERIES_SETTINGS if name in speed]
    speed = speed.dropna(subset="speed_up")
    if speed.empty:
        raise NothingToDraw("all trainings of the study were disturbed by other work")
    shown = speed[speed.groupby(settings)["ranks"].transform("nunique") > 1]
    if shown.empty:
        raise NothingToDraw(reason)
    return shown


def _draw_paper(left: Axes, right: Axes, ranks: Sequence[int], first: int) -> None:
    """Draw the paper's own speed-up with 16 slices over the ``first`` rank count, at those that were measured here."""
    times = {row.ranks: row.seconds for row in TABLE_2 if row.slices == 16 and row.ranks in ranks}
    if first not in times:
        return
    speed = {count: times[first] / seconds for count, seconds in times.items()}
    marks: Any = {"color": GREY, "marker": "x", "ls": ""}
    left.plot(list(speed), list(speed.values()), label="paper, 16 slices, A100", **marks)
    right.plot(list(speed), [100 * gained * first / count for count, gained in speed.items()], **marks)


def draw_attribution(figure: Figure, results: Results) -> None:
    """Draw where the efficiency went: a bar a line and rank count, a part of the bar a cause.

    Reads ``attribution``: ``slices, sampling, ranks, cause, lost, disturbed``. ``lost`` is the share of the ranks' time
    that the cause took (0.05: five per cent), below 0 where it gained. Bars of disturbed trainings are hatched. What
    was not measured stands beside its bar.
    """
    table = results.table("attribution", "no control arm was trained, so nothing says where the time went")
    if table["lost"].isna().all():
        raise NothingToDraw("of each point a training or control arm is not done, or was disturbed by other work")
    named = [(_named(label, int(str(ranks)), bar), bar.dropna(subset="lost"))
             for label, group in lines(table) for ranks, bar in group.groupby("ranks")]  # fmt: skip
    causes = list(dict.fromkeys(table["cause"]))
    figure.set_size_inches(7, 1.2 + 0.28 * len(named))
    ax = figure.subplots()
    for row, (_, bar) in enumerate(named):
        hatch = "////" if (bar["disturbed"] != "").any() else ""
        _draw_bar(ax, row, 100 * bar.set_index("cause")["lost"], causes, hatch)
    ax.set_yticks(range(len(named)), [label for label, _ in named])
    ax.invert_yaxis()
    ax.axvline(0, color="black", lw=0.6)
    ax.set_xlabel("share of the ranks' time that was lost (%)")
    handles = [Patch(color=style(number)[0], label=cause) for number, cause in enumerate(causes)]
    if (table["disturbed"] != "").any():
        handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label="disturbed trainings"))
    legend_below(figure, handles, 4)


def _named(label: str, ranks: int, bar: pd.DataFrame) -> str:
    """Name a bar, with the causes that it lacks as an arm is missing: it is shorter than what was lost."""
    unknown = list(bar.loc[bar["lost"].isna(), "cause"])
    which = f": {', '.join(unknown)}" if len(unknown) < len(bar) else ""
    return f"{label}, {ranks} rank{'s' if ranks > 1 else ''}" + (f"\nnot measured{which}" if unknown else "")


def _draw_bar(ax: Axes, row: int, lost: "pd.Series[float]", causes: Sequence[str], hatch: str) -> None:
    """Draw losses to the right of 0, one after the other, and gains to the left."""
    ends = {True: 0.0, False: 0.0}
    for cause, share in lost.items():
        ax.barh(
            row,
            share,
            left=ends[share < 0],
            facecolor=style(causes.index(str(cause)))[0],
            height=0.7,
            hatch=hatch,
            edgecolor="white",
            lw=0,
        )
        ends[share < 0] += share


def draw_projection(figure: Figure, results: Results) -> None:
    """Draw the speed-up that the fitted model expects of more ranks, with its interval, and what was measured as marks.

    Reads ``projection``: ``law, slices, sampling, transfer, epochs, ranks, kind, baseline_ranks, speed_up, assumed,
    reason`` and, where estimated, ``speed_up_low, speed_up_high``; the marks are from ``speedup``. Scenarios are
    dashed, and what they assume stands beside them.
    """
    table = results.table("projection", "no training of the study is done")
    forecasts = table.dropna(subset="ranks")
    if forecasts.empty:
        raise NothingToDraw("; ".join(dict.fromkeys(table["reason"])))
    speed = _of_several_ranks(results)
    figure.set_size_inches(7, 4.4)
    ax = figure.subplots()
    ranks = sorted({int(count) for count in (*forecasts["ranks"], *speed["ranks"])})
    _draw_ideal(ax, ranks, forecasts["baseline_ranks"])
    for number, (label, group) in enumerate(lines(forecasts, ["law", *SERIES_SETTINGS])):
        _draw_forecast(ax, group.sort_values("ranks"), number, label)
    for number, (label, group) in enumerate(lines(speed)):
        marks: Any = {"color": "black", "marker": style(number)[1], "ls": ""}
        ax.plot(group["ranks"], group["speed_up"], label=f"measured: {label}", **marks)
        disturbed = group[group["disturbed"] != ""]
        ax.plot(disturbed["ranks"], disturbed["speed_up"], mfc="white", **marks)
    ax.axvline(speed["ranks"].max(), color=GREY, lw=0.6)
    ax.annotate(" not measured", (speed["ranks"].max(), 0.02), xycoords=("data", "axes fraction"), color=GREY)
    _name_assumptions(ax, forecasts)
    ax.set_yscale("log", base=2)
    rank_axis(ax, [2**power for power in range(int(np.log2(ranks[0])), int(np.log2(ranks[-1])) + 1)])
    lowest = min(table["speed_up"].min() for table in (forecasts, speed))
    ticks = _powers_of_two(lowest, ranks[-1] / forecasts["baseline_ranks"].min())
    ax.set(ylabel="speed-up over the baseline", yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    handles = [
        *ax.get_legend_handles_labels()[0],
        Line2D([], [], color=GREY, ls="--", label="scenario, not forecast"),
        *([hollow_mark()] if (speed["disturbed"] != "").any() else []),
    ]
    legend_below(figure, handles)


def _draw_forecast(ax: Axes, group: pd.DataFrame, number: int, label: str) -> None:
    """Draw a forecast as a line, and go on dashed from its end where it is a scenario."""
    colour, _ = style(number)
    forecast = group[group["kind"] != "scenario"]
    ax.plot(forecast["ranks"], forecast["speed_up"], color=colour, label=label)
    scenario = group[group["ranks"] >= forecast["ranks"].max()] if len(forecast) else group
    ax.plot(scenario["ranks"], scenario["speed_up"], color=colour, ls="--", label=None if len(forecast) else label)
    if "speed_up_low" in group:
        for part, alpha in ((forecast, 0.18), (scenario, 0.08)):
            low, high = (part[f"speed_up_{end}"].astype(float) for end in ("low", "high"))
            ax.fill_between(part["ranks"], low, high, color=colour, alpha=alpha, lw=0)


def _name_assumptions(ax: Axes, forecasts: pd.DataFrame) -> None:
    """Write above the lines what they assume."""
    assumed = dict.fromkeys(part for text in forecasts["assumed"] for part in str(text).split("; ") if part)
    texts = ["Assumed:", *assumed, "dashed, beyond 8 x the most measured ranks:", "that the model holds there too"]
    ax.annotate(
        "\n".join(texts),
        (0.02, 0.98),
        xycoords="axes fraction",
        va="top",
        fontsize=6.5,
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none"},
    )
