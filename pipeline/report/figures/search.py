"""Figures of a search: the best so far against hours, importance of parameters, parallel coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.quality import legend
from pipeline.report.figures.style import COLOURS, GREY, letter, style
from pipeline.report.results import NothingToDraw, Results

_NO_TRIALS = "no trial has a value"
_PANEL_INCHES, _LINE_INCHES = 1.7, 0.22
_PERCENT = 100


def draw_best_so_far(figure: Figure, results: Results) -> None:
    """Draw the lowest value so far against the hours that all trials of the network took so far.

    Trials that were not trained to their end are hollow, and never the best, as in the tables.
    """
    trials, ax = _with_values(results), figure.subplots()
    ax.axhline(_PERCENT, color=GREY, ls="--", lw=0.8, label="low-dose input")
    for number, (network, group) in enumerate(trials.groupby("network", sort=False)):
        colour, mark = style(number)
        hours, values = group["hours"].cumsum(), _PERCENT * group["value"]
        complete = values.where(group["state"] == "complete")
        ax.step(hours, complete.cummin().ffill(), where="post", color=colour, lw=1)
        ax.plot(hours, values.where(complete.isna()), mark, color=colour, mfc="white", ms=3)
        ax.plot(hours, complete, mark, color=colour, label=network)
    ax.set(xlabel="hours of all trials of the network", ylabel="validation RMSE (% of the input's)", xlim=(0, None))
    legend(figure)


def draw_importance(figure: Figure, results: Results) -> None:
    """Draw the importance of each parameter as a bar, hollow where chance would give as much; a panel a network."""
    table = results.table("importance", "no network has enough trials, or there is a single parameter")
    groups = list(table.groupby("network", sort=False))
    rows = max(len(group) for _, group in groups)
    figure.set_size_inches(7, 0.6 + len(groups) * (0.4 + _LINE_INCHES * rows))
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for number, (ax, (network, group)) in enumerate(zip(panels, groups, strict=True)):
        group = group.sort_values("importance")
        colours = [COLOURS[0] if beats else "white" for beats in group["importance"] > group["chance"]]
        ax.barh(group["parameter"], group["importance"], color=colours, edgecolor=COLOURS[0], height=0.6)
        ax.plot(group["chance"], group["parameter"], "|", color=GREY, ms=10, label="95 % of chance")
        letter(ax, number, f"{network}, {group['trials'].iloc[0]} trials")
    panels[-1].set(xlabel="share of the importance", xlim=(0, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center")


def draw_parallel_coordinates(figure: Figure, results: Results) -> None:
    """Draw each trial as a line over its parameters to its value; a panel a network."""
    trials, ranges = _with_values(results).dropna(subset="value"), results.tables["ranges"]
    groups = list(trials.groupby("network", sort=False))
    figure.set_size_inches(7, 0.4 + _PANEL_INCHES * len(groups))
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for number, (ax, (network, group)) in enumerate(zip(panels, groups, strict=True)):
        _draw_trials(ax, group, ranges[ranges["network"] == network].to_dict("records"))
        letter(ax, number, str(network))


def _with_values(results: Results) -> pd.DataFrame:
    """Return the table of trials, if any has a value."""
    trials = results.table("trials", _NO_TRIALS)
    if trials["value"].isna().all():
        raise NothingToDraw(_NO_TRIALS)
    return trials


def _draw_trials(ax: Axes, trials: pd.DataFrame, ranges: Sequence[dict[Any, Any]]) -> None:
    """Draw the trials of one network: complete ones the darker the better, others grey."""
    values, axes = _PERCENT * trials["value"], range(len(ranges) + 1)
    low, span = values.min(), (values.max() - values.min()) or 1.0
    for (_, trial), value in sorted(zip(trials.iterrows(), values, strict=True), key=lambda pair: -pair[1]):
        heights = [*(_height(trial[row["parameter"]], row) for row in ranges), (value - low) / span]
        is_complete = trial["state"] == "complete"
        ax.plot(axes, heights, color=COLOURS[0] if is_complete else GREY, lw=1.2 if is_complete else 0.6,
                alpha=1 - 0.8 * (value - low) / span if is_complete else 0.4)  # fmt: skip
    ends = [
        *((_text(row["values"][0]), _text(row["values"][-1])) for row in ranges),
        (f"{low:.1f}", f"{low + span:.1f}"),
    ]
    for x, (lower, upper) in zip(axes, ends, strict=True):
        ax.vlines(x, 0, 1, color="0.2", lw=0.6)
        for height, text in ((-0.02, lower), (1.02, upper)):
            ax.text(x, height, text, ha="center", va="top" if height < 0 else "bottom", fontsize=6)
    _name_choices(ax, ranges)
    ax.set_xticks(axes, [*(row["parameter"].replace(".", ".\n") for row in ranges), "RMSE (%)"])
    ax.tick_params(length=0, pad=8)
    ax.set(yticks=[], ylim=(-0.05, 1.15))
    ax.spines[["left", "bottom"]].set_visible(False)


def _name_choices(ax: Axes, ranges: Sequence[dict[Any, Any]]) -> None:
    """Write each choice between the first and the last beside its place on the axis."""
    for x, parameter in enumerate(ranges):
        for setting in parameter["values"][1:-1]:  # a range has two ends alone
            ax.text(x, _height(setting, parameter), f" {_text(setting)}", va="center", fontsize=6,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5})  # fmt: skip


def _height(setting: Any, parameter: dict[Any, Any]) -> float:
    """Return where a setting lies on its axis, from 0 to 1."""
    values = parameter["values"]
    if parameter["kind"] == "choice":
        texts = [_text(value) for value in values]
        return texts.index(_text(setting)) / max(1, len(texts) - 1)
    low, high, setting = (math.log(x) if parameter["kind"] == "log" else x for x in (*values, setting))
    return float((setting - low) / (high - low))


def _text(setting: Any) -> str:
    return f"{setting:.3g}" if isinstance(setting, int | float) and not isinstance(setting, bool) else str(setting)
