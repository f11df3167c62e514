"""The figures of the report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.files import replacing
from pipeline.config import CellSettings
from pipeline.evaluate import INPUT
from pipeline.training.metrics_file import read_metrics

mpl.use("agg")
# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LUNG = (-600.0, 1600.0)
DIFFERENCE_HU = 100


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_loss_curves(root: Path, cells: Sequence[CellSettings], path: Path) -> None:
    """Training loss, and validation error beside the low-dose input's, against samples seen."""
    with _figure(path, 11, 4) as figure:
        left, right = figure.subplots(1, 2)
        for number, cell in enumerate(cells):
            _draw_cell(root, cell, left, right, COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)])
        left.set(xlabel="samples seen", ylabel="training loss", yscale="log", title="Training loss")
        right.set(xlabel="samples seen", ylabel="RMSE (HU)", title="Validation error; dashed: low-dose input")
        if right.lines:
            right.legend(frameon=False, fontsize=8)


def _draw_cell(root: Path, cell: CellSettings, left: Axes, right: Axes, colour: str, mark: str) -> None:
    lines = pd.DataFrame(read_metrics(root / "cells" / cell.id))
    if lines.empty:
        return
    seen = lines["step"] * cell.ranks * cell.training.batch
    trained, validated = lines["kind"] == "train", lines["kind"] == "validation"
    left.plot(seen[trained], lines.loc[trained, "loss"], color=colour, label=cell.id, lw=1.2)
    if validated.any():
        rows = lines[validated]
        right.plot(seen[validated], rows["rmse_hu"], color=colour, label=cell.id, marker=mark, ms=4, lw=1.2)
        right.plot(seen[validated], rows["low_dose_rmse_hu"], color=colour, ls="--", lw=0.8)


def draw_speed_up(speed: pd.DataFrame, path: Path) -> None:
    """Speed-up and efficiency against ranks, a line a slice count, with the ideal."""
    with _figure(path, 9, 4) as figure:
        left, right = figure.subplots(1, 2)
        ranks = sorted(speed["ranks"].unique())
        left.plot(ranks, ranks, color="0.6", ls="--", lw=1, label="ideal")
        right.axhline(100, color="0.6", ls="--", lw=1)
        for number, (slices, group) in enumerate(speed.groupby("slices")):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)], "label": f"{slices} slices"}
            left.plot(group["ranks"], group["speed_up"], **style)
            right.plot(group["ranks"], 100 * group["efficiency"], **style)
        left.set(xlabel="ranks", ylabel="speed-up", title="Speed-up of training", xticks=ranks)
        right.set(xlabel="ranks", ylabel="efficiency (%)", title="Efficiency", xticks=ranks, ylim=(0, 110))
        left.legend(frameon=False)


def draw_slices(root: Path, quality: pd.DataFrame, path: Path) -> None:
    """One held-out slice: low dose, full dose, the 2D and the best 3D network, and their differences."""
    shown = _shown_models(quality)
    with np.load(root / "evaluation" / f"{INPUT}.npz") as example:
        full = example["full_dose"].astype(float)
    images = {"full dose": full}
    for model in shown:
        with np.load(root / "evaluation" / f"{model}.npz") as example:
            images[model] = example["image"].astype(float)
    with _figure(path, 3.1 * len(images), 6.6) as figure:
        axes = figure.subplots(2, len(images), squeeze=False)
        low, high = LUNG[0] - LUNG[1] / 2, LUNG[0] + LUNG[1] / 2
        for column, (name, image) in enumerate(images.items()):
            shade = axes[0][column].imshow(image, cmap="gray", vmin=low, vmax=high)
            axes[0][column].set_title(name, fontsize=11)
            rmse = float(np.sqrt(np.mean((image - full) ** 2)))
            change = axes[1][column].imshow(image - full, cmap="PuOr", vmin=-DIFFERENCE_HU, vmax=DIFFERENCE_HU)
            axes[1][column].set_title("" if name == "full dose" else f"minus full dose: RMSE {rmse:.1f} HU", fontsize=9)
        for ax in axes.flat:
            ax.set_axis_off()
        axes[1][0].set_visible(False)
        figure.colorbar(shade, ax=axes[0].tolist(), label="HU (lung window)", shrink=0.85)
        figure.colorbar(change, ax=axes[1].tolist(), label="difference (HU)", shrink=0.85)


def _shown_models(quality: pd.DataFrame) -> list[str]:
    """The input, the 2D network and the best 3D one, as far as they were judged."""
    models = quality.sort_values("rmse_hu_mean")["model"]
    deep = [model for model in models if model.startswith("3d")][:1]
    return [INPUT, *(["2d"] if "2d" in set(models) else []), *deep]
