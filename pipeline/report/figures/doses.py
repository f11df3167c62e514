"""Figure of networks at several doses: error, noise, sharpness and bias."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pipeline.report.doses import DOSE, SEEN
from pipeline.report.figures.quality import judged_models, legend, look
from pipeline.report.figures.style import GREY, letter
from pipeline.report.results import Results

_PANELS: dict[str, tuple[str, float | None]] = {
    "rmse_hu_mean": ("RMSE (HU)", None), "noise_sd": ("noise SD (HU)", None),
    "sharpness": ("sharpness (full dose = 1)", 1.0), "bias_soft": ("soft tissue bias (HU)", 0.0),
}  # fmt: skip
"""By column: the axis, and where the full dose is if it has a line of its own."""


def draw_doses(figure: Figure, results: Results) -> None:
    """Draw each measure against the dose, a line a model; hollow where a network was not trained on the dose."""
    table = results.table("quality_doses", "all was judged at one dose")
    models = list(judged_models(results)["model"])
    table = table[table["model"].isin(models)]
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for number, (ax, (column, (label, full))) in enumerate(zip(panels, _PANELS.items(), strict=True)):
        if full is not None:
            ax.axhline(full, color=GREY, ls="--", lw=0.8, zorder=0)
        for model, curve in table.groupby("model", sort=False):
            _draw_curve(ax, curve, column, look(str(model), models), str(model))
        _dose_axis(ax, sorted(table[DOSE].unique()))
        letter(ax, number, label)
    for ax in panels[2:]:
        ax.set_xlabel("dose (% of full)")
    hollow = [Line2D([], [], color=GREY, marker="o", ls="", mfc="white", label="dose not trained on")]
    legend(figure, hollow if (table[SEEN] == "no").any() else [], least_inches=5.0)


def _draw_curve(ax: Axes, curve: pd.DataFrame, column: str, looks: tuple[str, str, str], model: str) -> None:
    colour, mark, line = looks
    seen = curve[curve[SEEN] != "no"]
    unseen = curve[curve[SEEN] == "no"]
    ax.plot(100 * curve[DOSE], curve[column], color=colour, ls=line, marker="", zorder=1)
    ax.plot(100 * seen[DOSE], seen[column], mark, color=colour)
    ax.plot(100 * unseen[DOSE], unseen[column], mark, color=colour, mfc="white")
    ax.plot([], [], color=colour, ls=line, marker=mark, label=model)


def _dose_axis(ax: Axes, doses: list[Any]) -> None:
    ax.set_xscale("log")
    ax.set_xticks([100 * dose for dose in doses], [f"{100 * dose:g}" for dose in doses])
    ax.xaxis.set_minor_locator(NullLocator())
