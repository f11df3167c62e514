"""Figures of loss and error during training: Fig 6 and Fig 7 of the paper."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pipeline.report.figures.style import GREY, legend_below, letter, lines, style
from pipeline.report.results import NothingToDraw, Results

_WINDOWS = 50  # of the running mean in a training


def draw_by_slices(figure: Figure, results: Results) -> None:
    """Draw Fig 6: a line a slice count, for the transfer with the most slice counts."""
    cells = results.trained()
    transfer = cells.groupby("transfer", sort=False)["slices"].nunique().idxmax()
    _draw_courses(figure, results, cells[cells["transfer"] == transfer], f" (transfer {transfer})")


def draw_by_transfer(figure: Figure, results: Results) -> None:
    """Draw Fig 7: a line a transfer, or none, for each slice count with several of them."""
    cells = results.trained()
    kinds = cells.groupby(["network", "slices"])["transfer"].transform("nunique")
    if kinds.max() < 2:
        raise NothingToDraw("all trainings that are done have the same transfer")
    _draw_courses(figure, results, cells[kinds > 1])


def _draw_courses(figure: Figure, results: Results, cells: pd.DataFrame, subtitle: str = "") -> None:
    """Draw training loss, and validation error as a share of the input's, against samples: mean and range of seeds.

    A line shows the trainings on its fewest ranks, since more ranks take larger steps.
    """
    figure.set_size_inches(7, 3.2)
    left, right = figure.subplots(1, 2)
    right.axhline(100, color=GREY, ls="--", lw=0.8, label="low-dose input")
    for number, (label, group) in enumerate(lines(cells)):
        fewest = group[group["ranks"] == group["ranks"].min()]
        curves = results.curves[results.curves["cell"].isin(fewest["cell"])]
        _draw_course(left, smoothed(curves[curves["kind"] == "train"]), number, label)
        _draw_course(right, errors(curves[curves["kind"] == "validation"]), number, label, "o")
    left.set(xlabel="samples trained on", ylabel="training loss", yscale="log")
    left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    right.set(xlabel="samples trained on", ylabel="validation RMSE (% of the input's)")
    letter(left, 0, f"training loss{subtitle}")
    letter(right, 1, f"validation error{subtitle}")
    legend_below(figure, right.get_legend_handles_labels()[0])


def _draw_course(ax: Axes, course: pd.DataFrame, number: int, label: str, mark: str = "") -> None:
    colour, _ = style(number)
    seeds = course.groupby("samples")["value"].agg(["mean", "min", "max"])
    ax.plot(seeds.index, seeds["mean"], color=colour, label=label, marker=mark, ms=3, lw=1)
    ax.fill_between(seeds.index, seeds["min"], seeds["max"], color=colour, alpha=0.18, lw=0)


def smoothed(trained: pd.DataFrame) -> pd.DataFrame:
    """Return ``cell, samples, value``: the running mean of the loss over a fiftieth of each training."""
    parts = [part.assign(value=part["loss"].rolling(max(1, len(part) // _WINDOWS), min_periods=1).mean())
             for _, part in trained.groupby("cell", sort=False)]  # fmt: skip
    return pd.concat(parts) if parts else trained.assign(value=pd.Series(dtype=float))


def errors(validated: pd.DataFrame) -> pd.DataFrame:
    """Return ``cell, samples, value``: RMSE in validation as a percentage of the low-dose input's."""
    return validated.assign(value=100 * validated["rmse_hu"] / validated["low_dose_rmse_hu"])
