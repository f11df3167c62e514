"""Figures of a held-out slice: Fig 8 and Fig 9 of the paper."""

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep.volume import LUNG_WINDOW
from pipeline.report.results import NothingToDraw, Results
from pipeline.report.volumes import DIFFERENCE_HU, Stacks

_BAR: Any = {"orientation": "horizontal", "shrink": 0.5, "aspect": 40, "pad": 0.03}
_LINE = 28  # letters of a title


def draw_slices(figure: Figure, results: Results) -> None:
    """Draw Fig 9: low dose, 2D, 3D and full dose side by side, in the lung window."""
    stacks = _stacks(results)
    centre, width = LUNG_WINDOW
    named = {**stacks.images, "full dose": stacks.full}
    figure.set_layout_engine("compressed")
    figure.set_size_inches(1.75 * len(named), 2.6)
    axes = figure.subplots(1, len(named), squeeze=False)[0]
    for ax, (name, stack) in zip(axes, named.items(), strict=True):
        drawn = ax.imshow(stack[stacks.middle], cmap="gray", vmin=centre - width / 2, vmax=centre + width / 2)
        ax.set_title(_in_lines(name), fontsize=7)
        ax.set_axis_off()
    figure.colorbar(drawn, ax=list(axes), label="HU (lung window)", **_BAR)


def draw_differences(figure: Figure, results: Results) -> None:
    """Draw Fig 8: the difference of each image from the full dose, with its RMSE."""
    stacks = _stacks(results)
    full = stacks.full[stacks.middle].astype(np.float64)
    figure.set_layout_engine("compressed")
    figure.set_size_inches(max(1.75 * len(stacks.images), 3.5), 2.8)
    axes = figure.subplots(1, len(stacks.images), squeeze=False)[0]
    for ax, (name, stack) in zip(axes, stacks.images.items(), strict=True):
        change = stack[stacks.middle] - full
        drawn = ax.imshow(change, cmap="PuOr", vmin=-DIFFERENCE_HU, vmax=DIFFERENCE_HU)
        ax.set_title(f"{_in_lines(name)}\nRMSE {np.sqrt(np.mean(change**2)):.1f} HU", fontsize=7)
        ax.set_axis_off()
    figure.colorbar(drawn, ax=list(axes), label="HU above (+) or below the full dose", **_BAR)


def _in_lines(name: str) -> str:
    """Return the name with its part in brackets below; lines are no longer than an image is wide."""
    return "\n".join(line for part in name.replace(" (", "\n(").splitlines() for line in wrap(part, _LINE))


def _stacks(results: Results) -> Stacks:
    if results.stacks is None:
        raise NothingToDraw("nothing was judged on the held-out slices")
    return results.stacks
