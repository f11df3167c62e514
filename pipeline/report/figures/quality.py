"""Figures of the quality of denoisers: noise spectra, sharpness against noise, bias by tissue."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.doses import at_lowest
from pipeline.report.figures.style import BLACK, GREY, LETTER_INCHES, LINE_INCHES, MARKS, letter, style
from pipeline.report.results import NothingToDraw, Results
from pipeline.settings.names import CLASSICAL_TITLES, LOW_DOSE_INPUT

_BASELINES, _MODELS = 3, 24  # the input, the classical denoiser and the 2D network; all models in a figure
_SHORT = 20  # letters of a name beside which the panels are wide enough for their titles
_TISSUES = {"bias_lung": "lung", "bias_soft": "soft tissue", "bias_bone": "bone, contrast"}


def draw_noise_spectra(figure: Figure, results: Results) -> None:
    """Draw noise power spectra, a line a model."""
    nps = at_lowest(results.table("nps", "no scan that was judged has a uniform block of soft tissue"))
    nps, ax = nps[nps["model"].isin(judged_models(results)["model"])], figure.subplots()
    for model, curve in nps.groupby("model", sort=False):
        colour, mark, line = look(str(model), list(nps["model"].unique()))
        ax.plot(curve["frequency"], curve["nps"], color=colour, marker=mark, ls=line, label=model)
    ax.set(xlabel="spatial frequency (cycles/mm)", ylabel="NPS (HU² mm²)", xlim=(0, None), ylim=(0, None))
    legend(figure)


def draw_sharpness(figure: Figure, results: Results) -> None:
    """Draw sharpness at edges against noise, a mark a model; the full dose is at 0 HU and 1 by definition."""
    quality = judged_models(results)
    measured = quality.dropna(subset=["noise_sd", "sharpness"])
    if measured.empty:
        raise NothingToDraw("no scan that was judged has uniform soft tissue and edges, to measure noise and sharpness")
    ax = figure.subplots()
    ax.axhline(1, color=GREY, ls="--", zorder=0)
    ax.plot(0, 1, "*", color="0.2", ms=14, label="full dose", clip_on=False, zorder=3)
    for row in measured.to_dict("records"):
        colour, mark, _ = look(str(row["model"]), list(quality["model"]))
        ax.plot(row["noise_sd"], row["sharpness"], mark, color=colour, ms=8, label=row["model"])
    ax.set(xlabel="noise SD in uniform soft tissue (HU)", ylabel="sharpness at edges (full dose = 1)", xlim=(0, None))
    ax.margins(0.12)
    ax.set_xlim(left=0)
    legend(figure)


def draw_bias(figure: Figure, results: Results) -> None:
    """Draw the mean deviation from the full dose, a panel a tissue and a row a model."""
    quality = judged_models(results)
    models = list(quality["model"])
    beyond = max(0, max(map(len, models)) - _SHORT)
    figure.set_size_inches(7 + LETTER_INCHES * beyond, 1.0 + LINE_INCHES * len(models))
    panels = figure.subplots(1, len(_TISSUES), sharey=True)
    for number, (ax, name) in enumerate(zip(panels, _TISSUES, strict=True)):
        ax.axvline(0, color=GREY, lw=0.8)
        for row, (model, bias) in enumerate(zip(models, quality[name], strict=True)):
            colour, mark, _ = look(model, models)
            ax.plot([0, bias], [row, row], color=colour, lw=0.8)
            ax.plot(bias, row, mark, color=colour)
        ax.set_yticks(range(len(models)), models)
        if quality[name].isna().all():
            ax.set_xticks([])
            ax.text(
                0.5, 0.5, "no such tissue", transform=ax.transAxes, color=GREY, ha="center", backgroundcolor="white"
            )
        letter(ax, number, _TISSUES[name])
    figure.axes[0].invert_yaxis()
    figure.supxlabel("mean difference from the full dose (HU)", fontsize="medium")


def judged_models(results: Results) -> pd.DataFrame:
    """Return the quality of as many models as can be distinguished: the baselines, then those of the least error."""
    quality = at_lowest(results.table("quality", "nothing was judged on the held-out slices"))
    best = quality.iloc[_BASELINES:].nsmallest(_MODELS - _BASELINES, "rmse_hu_mean").index
    return quality[quality.index.isin([*quality.index[:_BASELINES], *best])]


def legend(figure: Figure, further: Sequence[Line2D] = (), least_inches: float = 3.0) -> None:
    """Add a legend of the first panel's lines to the right; the figure is made as high as the legend."""
    handles = [*figure.axes[0].get_legend_handles_labels()[0], *further]
    figure.set_size_inches(7, max(least_inches, 0.5 + LINE_INCHES * len(handles)))
    figure.legend(handles=handles, loc="outside right center")


def look(model: str, models: Sequence[str]) -> tuple[str, str, str]:
    """Return colour, mark and line of a model, the same in all figures; baselines are black and grey, not solid."""
    if model == LOW_DOSE_INPUT:
        return BLACK, "X", "--"
    if model in CLASSICAL_TITLES:
        return GREY, MARKS[[*CLASSICAL_TITLES].index(model)], ":"
    networks = [name for name in models if name not in (LOW_DOSE_INPUT, *CLASSICAL_TITLES)]
    return (*style(networks.index(model)), "-")
