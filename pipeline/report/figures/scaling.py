"""Figures of how training scales: Fig 4 of the paper, efficiency, where it was lost, and what is to be expected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.report.figures.style import GREY, VARIANT, draw_line, letter, lines, rank_axis, style
from pipeline.report.paper import TABLE_2
from pipeline.report.results import NothingToDraw, Results
from pipeline.settings.names import LOW_DOSE_INPUT

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_PANELS = 4  # of slice counts in a row
_IN_GRID = ("sampling", "transfer", "epochs", "work")


def draw_time(figure: Figure, results: Results) -> None:
    """Fig 4 a, b: training time against ranks, a panel a slice count, the most slices first."""
    done = results.trained()
    panels = _panels(figure, done)
    divisor, unit = next((one for one in _UNITS if done["training_seconds"].max() >= 2 * one[0]), _UNITS[-1])
    for panel, (slices, ax) in enumerate(panels):
        shown = done[done["slices"] == slices]
        for number, (label, group) in enumerate(lines(shown, _IN_GRID)):
            _draw_times(ax, group, number, label, divisor)
        rank_axis(ax, list(shown["ranks"]))
        ax.set(ylim=(0, None), ylabel=f"training time ({unit})" if panel == 0 else "")
        letter(ax, panel, f"{slices} slices")
        ax.legend()


def _draw_times(ax: Axes, group: pd.DataFrame, number: int, label: str, divisor: float) -> None:
    """Each training a dot, their means a line, and below it the share that is n times shorter on n times the ranks."""
    colour, mark = style(number)
    times = group.groupby("ranks")["training_seconds"].mean() / divisor
    ax.plot(times.index, times.iloc[0] * times.index[0] / times.index, color=GREY, ls="--", lw=0.8,
            label="ideal" if number == 0 else None)  # fmt: skip
    ax.plot(times.index, times, color=colour, marker=mark, label=label)
    ax.plot(group["ranks"], group["training_seconds"] / divisor, color=colour, marker=".", ls="", alpha=0.7)


def draw_accuracy(figure: Figure, results: Results) -> None:
    """Fig 4 c, d: MS-SSIM of the held-out slices of each data set against ranks, with the untouched input's."""
    done, judged = results.trained(), results.judged
    if judged[judged["model"].isin(done["cell"])].empty:
        raise NothingToDraw("no 3D network was judged on the held-out slices")
    merged = done[["cell", "slices", "ranks", *_IN_GRID]].merge(judged, left_on="cell", right_on="model")
    input_means = judged[judged["model"] == LOW_DOSE_INPUT].groupby("dataset")["ms_ssim"].mean()
    offset = done["slices"].nunique()
    for panel, (slices, ax) in enumerate(_panels(figure, merged)):
        shown = merged[merged["slices"] == slices]
        for number, (label, group) in enumerate(lines(shown, ("dataset", *_IN_GRID))):
            draw_line(ax, _spread(group, "ms_ssim"), "ms_ssim", number, label)
        for dataset, mean in input_means.items():
            ax.axhline(mean, color=GREY, ls=":", lw=0.9)
            told = f"input, {dataset}" if len(input_means) > 1 else "low-dose input"
            ax.annotate(told, (1, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6,
                        color=GREY)  # fmt: skip
        rank_axis(ax, list(shown["ranks"]))
        ax.set(ylabel="MS-SSIM" if panel == 0 else "")
        letter(ax, offset + panel, f"{slices} slices")
        ax.legend()


def _spread(group: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over slices at each rank count, and one SD below and above."""
    table = group.groupby("ranks")[metric].agg(["mean", "std"]).reset_index()
    return pd.DataFrame({
        "ranks": table["ranks"], metric: table["mean"],
        f"{metric}_low": table["mean"] - table["std"], f"{metric}_high": table["mean"] + table["std"],
    })  # fmt: skip


def _panels(figure: Figure, table: pd.DataFrame) -> Sequence[tuple[int, Axes]]:
    """A panel a slice count, side by side, the most slices first."""
    counts = sorted(table["slices"].unique(), reverse=True)[:_PANELS]
    figure.set_size_inches(max(3.5 * len(counts), 4.5), 3)
    return list(zip(counts, figure.subplots(1, len(counts), sharey=True, squeeze=False)[0], strict=True))


def draw_speed_up(figure: Figure, results: Results) -> None:
    """Speed-up and efficiency against ranks, with bands, the ideal, and the paper's 16 slices.

    Draws ``speedup``: ``slices, sampling, transfer, work, ranks, speed_up, efficiency``, and where they are known
    ``speed_up_low, speed_up_high, efficiency_low, efficiency_high``, an interval; a row a line and rank count.
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
    """The rows of ``speedup`` that are of more than one rank count: of one alone the speed-up is no finding."""
    none = "no two trainings that are alike in all but their ranks are done"
    speed = results.table("speedup", none)
    known = [name for name in VARIANT if name in speed]
    shown = speed[speed.groupby(known)["ranks"].transform("nunique") > 1]
    if shown.empty:
        raise NothingToDraw(none)
    return shown


def _draw_paper(left: Axes, right: Axes, ranks: Sequence[int]) -> None:
    """The paper's own speed-up with 16 slices, at the rank counts that were measured here."""
    times = {row.ranks: row.seconds for row in TABLE_2 if row.slices == 16}
    speed = {count: times[1] / seconds for count, seconds in times.items() if count in ranks}
    told: Any = {"color": GREY, "marker": "x", "ls": ""}
    left.plot(list(speed), list(speed.values()), label="paper, 16 slices, A100", **told)
    right.plot(list(speed), [100 * gained / count for count, gained in speed.items()], **told)


def draw_attribution(figure: Figure, results: Results) -> None:
    """Where the efficiency went: a bar a line and rank count, a part a cause.

    Draws ``attribution``: ``slices, sampling, transfer, work, ranks, cause, lost``, where ``lost`` is the share of
    the ranks' time that the cause took (0.05: five per cent), below 0 where it gained; what remains was useful.
    """
    none = "no control arm was trained, so nothing says where the time went"
    table = results.table("attribution", none).dropna(subset="lost")
    if table.empty:
        raise NothingToDraw(none)
    named = [
        (f"{label}, {ranks} rank{'s' if int(str(ranks)) > 1 else ''}", bar)
        for label, group in lines(table)
        for ranks, bar in group.groupby("ranks")
    ]
    causes = list(dict.fromkeys(table["cause"]))
    figure.set_size_inches(7, 1.2 + 0.28 * len(named))
    ax = figure.subplots()
    for place, (_, bar) in enumerate(named):
        _draw_bar(ax, place, 100 * bar.set_index("cause")["lost"], causes)
    ax.set_yticks(range(len(named)), [label for label, _ in named])
    ax.invert_yaxis()
    ax.axvline(0, color="black", lw=0.6)
    ax.set_xlabel("share of the ranks' time that was lost (%)")
    handles = [Patch(color=style(number)[0], label=cause) for number, cause in enumerate(causes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _draw_bar(ax: Axes, place: int, lost: "pd.Series[float]", causes: Sequence[str]) -> None:
    """Losses to the right of 0, one after the other, gains to the left."""
    ends = {True: 0.0, False: 0.0}
    for cause, share in lost.items():
        ax.barh(place, share, left=ends[share < 0], color=style(causes.index(str(cause)))[0], height=0.7)
        ends[share < 0] += share


def draw_projection(figure: Figure, results: Results) -> None:
    """What the fitted laws expect of more ranks than were measured, with their interval; marks are measured.

    Draws ``projection``: ``law, slices, sampling, transfer, work, ranks, speed_up`` and, where they are known,
    ``speed_up_low, speed_up_high``; and the marks of ``speedup``.
    """
    table = results.table("projection", "too few rank counts were measured to fit a law")
    speed = _of_several_ranks(results)
    figure.set_size_inches(7, 4.4)
    ax = figure.subplots()
    ranks = sorted({*table["ranks"], *speed["ranks"]})
    ax.plot(ranks, ranks, color=GREY, ls="--", lw=0.8, label="ideal")
    for number, (label, group) in enumerate(lines(table, ("law", *VARIANT))):
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
