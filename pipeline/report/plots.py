"""The figures of the report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_prep.files import replacing
from data_prep.volume import SIDE
from pipeline.config import DDNET_2D, LOW_DOSE_INPUT, RED_CNN, CellSettings
from pipeline.training.metrics_file import read_metrics

mpl.use("agg")
# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LUNG = (-600.0, 1600.0)
DIFFERENCE_HU = 100
Image = NDArray[np.float64]


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    figure = Figure(figsize=(width, height), dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.08)
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_loss_curves(root: Path, cells: Sequence[CellSettings], path: Path) -> None:
    """Training loss, and validation error as a share of the low-dose input's, against voxels trained on."""
    with _figure(path, 12, 4) as figure:
        left, right = figure.subplots(1, 2)
        for number, cell in enumerate(cells):
            _draw_cell(root, cell, left, right, number)
        right.axhline(100, color="0.4", ls="--", lw=1, label="low-dose input")
        left.set(xlabel="voxels trained on (millions)", ylabel="training loss", yscale="log", title="Training loss")
        right.set(xlabel="voxels trained on (millions)", ylabel="RMSE, % of the input's", title="Validation error")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)


def _draw_cell(root: Path, cell: CellSettings, left: Axes, right: Axes, number: int) -> None:
    lines = pd.DataFrame(read_metrics(root / "cells" / cell.id))
    if lines.empty:
        return
    side = cell.training.crop or SIDE
    batch = cell.ranks * cell.training.batch * cell.training.accumulation
    millions = lines["step"] * batch * cell.slices * side**2 / 1e6
    trained, validated = lines["kind"] == "train", lines["kind"] == "validation"
    colour, mark = _style(number)
    left.plot(millions[trained], lines.loc[trained, "loss"], color=colour, lw=1.2)
    if validated.any():
        share = 100 * lines["rmse_hu"] / lines["low_dose_rmse_hu"]
        right.plot(millions[validated], share[validated], color=colour, label=cell.id, marker=mark, ms=5, lw=1.2)


def _style(number: int) -> tuple[str, str]:
    """Colour and mark of a line, no two alike among the first 49."""
    return COLOURS[number % len(COLOURS)], MARKS[(number + number // len(COLOURS)) % len(MARKS)]


def draw_speed_up(speed: pd.DataFrame, path: Path) -> None:
    """Speed-up and efficiency against ranks, a line a slice count and transfer, with the ideal."""
    with _figure(path, 11, 4) as figure:
        left, right = figure.subplots(1, 2)
        ranks = sorted(speed["ranks"].unique())
        left.plot(ranks, ranks, color="0.6", ls="--", lw=1, label="ideal")
        right.axhline(100, color="0.6", ls="--", lw=1)
        for number, ((slices, transfer), group) in enumerate(speed.groupby(["slices", "transfer"], sort=False)):
            colour, mark = _style(number)
            label = f"{slices} slices, transfer {transfer}"
            left.plot(group["ranks"], group["speed_up"], color=colour, marker=mark, label=label)
            right.plot(group["ranks"], 100 * group["efficiency"], color=colour, marker=mark)
        left.set(xlabel="ranks", ylabel="speed-up", title="Speed-up of training", xticks=ranks)
        right.set(xlabel="ranks", ylabel="efficiency (%)", title="Efficiency", xticks=ranks, ylim=(0, 110))
        figure.legend(loc="outside right center", frameon=False, fontsize=8)


def draw_slices(root: Path, quality: pd.DataFrame, dose: float, path: Path) -> None:
    """One held-out slice: low dose, the 2D networks and the best 3D one, full dose, and their differences."""
    images, full = _example_images(root, quality, dose)
    low, high = LUNG[0] - LUNG[1] / 2, LUNG[0] + LUNG[1] / 2
    with _figure(path, 3 * (len(images) + 1), 6.4) as figure:
        axes = figure.subplots(2, len(images) + 1, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for column, (name, image) in enumerate(images.items()):
            rmse = float(np.sqrt(np.mean((image - full) ** 2)))
            axes[0][column].imshow(image, cmap="gray", vmin=low, vmax=high)
            axes[0][column].set_title(name, fontsize=11)
            change = axes[1][column].imshow(image - full, cmap="PuOr", vmin=-DIFFERENCE_HU, vmax=DIFFERENCE_HU)
            axes[1][column].set_title(f"minus full dose: RMSE {rmse:.1f} HU", fontsize=10)
        shade = axes[0][-1].imshow(full, cmap="gray", vmin=low, vmax=high)
        axes[0][-1].set_title("full dose", fontsize=11)
        for height, drawn, label in ((0.7, shade, "images: HU, lung window"), (0.3, change, "differences: HU")):
            bar = axes[1][-1].inset_axes((0.05, height, 0.9, 0.06))
            figure.colorbar(drawn, cax=bar, orientation="horizontal", label=label)


def _example_images(root: Path, quality: pd.DataFrame, dose: float) -> tuple[dict[str, Image], Image]:
    """The input, the 2D networks and the best 3D one, as far as they were judged; and the full dose."""
    models = list(quality.sort_values("rmse_hu_mean")["model"])
    best = next((model for model in models if model.startswith("3d")), None)
    names = {
        f"low dose ({100 * dose:g} %)": LOW_DOSE_INPUT,
        "2D-DDnet": DDNET_2D,
        "RED-CNN": RED_CNN,
        f"3D-DDnet ({best})": best,
    }
    images, full = {}, np.zeros((1, 1))
    for name, model in names.items():
        if model in models:
            with np.load(root / "evaluation" / f"{model}.npz") as example:
                images[name], full = example["image"].astype(float), example["full_dose"].astype(float)
    return images, full
