"""Neighbouring slices of a held-out scan: those that were judged, and the same packed for the page's viewer."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.overview import WINDOWS
from pipeline.report.doses import dose_text
from pipeline.settings.architectures import architecture_of
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import LOW_DOSE_INPUT

Hu = NDArray[np.int16]
PACKED_BYTES = 10 * 2**20
"""Limit for all slices of the viewer, before base64 makes them a third larger: the page stays below 25 MB."""
MOST_NETWORKS = 4
"""Whose images figures and the viewer show: those of the least error."""
DIFFERENCE_HU = 100
"""Differences from the full dose are shown from minus to plus this."""
_WINDOWS = {**WINDOWS, "bone": (400.0, 1800.0)}


@dataclass(frozen=True)
class Stacks:
    """HU of the same slices, each (slices, rows, columns).

    ``images``: the low dose and the best training of each network, by what figures call them; ``full``: the full
    dose.
    """

    images: Mapping[str, Hu]
    full: Hu

    @property
    def middle(self) -> int:
        """Index of the slice that figures show."""
        return len(self.full) // 2


def read_stacks(root: Path, quality: pd.DataFrame, cells: Sequence[CellSettings], dose: float) -> Stacks | None:
    """Read the example images of the networks in ``quality`` from ``root/evaluation``; None if nothing was judged.

    ``dose``: of the example, NaN where it was measured.
    """
    models, images, full = list(quality.sort_values("rmse_hu_mean")["model"]), dict[str, Hu](), None
    for name, model in {f"low dose ({dose_text(dose)})": LOW_DOSE_INPUT, **_best_trainings(models, cells)}.items():
        if model in models:
            with np.load(root / "evaluation" / f"{model}.npz") as example:
                images[name], full = example["image"], example["full_dose"]
    return None if full is None else Stacks(images, full)


def _best_trainings(models: Sequence[str], cells: Sequence[CellSettings]) -> dict[str, str]:
    """Return the first training in ``models``, the best come first, of each of the ``MOST_NETWORKS`` best networks.

    Networks are in the order of the settings. The id of a training stands in brackets where it says more than its
    architecture.
    """
    of_id = {cell.id: cell for cell in cells}
    ranked = [of_id[model] for model in models if model in of_id]
    best = {cell.network: cell for cell in reversed(ranked)}
    shown = sorted(sorted(best.values(), key=ranked.index)[:MOST_NETWORKS], key=cells.index)
    return {_title(cell, shown): cell.id for cell in shown}


def _title(cell: CellSettings, shown: Sequence[CellSettings]) -> str:
    title = architecture_of(cell.model).title_in(cell.dims)
    namesakes = [shown_cell for shown_cell in shown if (shown_cell.model, shown_cell.dims) == (cell.model, cell.dims)]
    return title if len(namesakes) == 1 and not cell.is_in_grid else f"{title} ({cell.id})"


def viewer_data(stacks: Stacks) -> dict[str, Any]:
    """Return the stacks as plain values for JSON: as many slices around the middle as fit into ``PACKED_BYTES``.

    With them go the viewer's windows (centre and width in HU) and the range of its colour scale.
    """
    named = {**stacks.images, "full dose": stacks.full}
    count, rows, columns = stacks.full.shape
    packed = [[pack(stack[z]) for stack in named.values()] for z in range(count)]
    first, stop = _fitting([sum(map(len, slice_)) for slice_ in packed])
    texts = [[base64.b64encode(plane).decode() for plane in slice_] for slice_ in packed[first:stop]]
    return {"names": list(named), "rows": rows, "columns": columns, "slices": texts, "windows": _WINDOWS,
            "difference_hu": DIFFERENCE_HU}  # fmt: skip


def _fitting(sizes: list[int]) -> tuple[int, int]:
    """Return start and stop of the slices that fit: the ends are left out in turn, but one slice always stays."""
    first, stop = 0, len(sizes)
    while stop - first > 1 and sum(sizes[first:stop]) > PACKED_BYTES:
        if (stop - first) % 2:
            first += 1
        else:
            stop -= 1
    return first, stop


def pack(image: Hu) -> bytes:
    """Deflate one slice (rows, columns) without loss.

    Deflated are the differences of each pixel from the mean of its left and upper neighbour, modulo 2^16, with signs
    folded into the lowest bit; first all low bytes, then all high bytes. ``viewer.js`` has the inverse. This is a
    quarter smaller than two channels of a PNG, and bytes that pass through no image decoder are not altered by one.
    """
    wide = image.astype(np.int32)
    left, above = np.roll(wide, 1, 1), np.roll(wide, 1, 0)
    left[:, 0] = above[:, 0]
    above[0] = left[0]
    left[0, 0] = above[0, 0] = 0
    residual = (wide - ((left + above) >> 1)).astype(np.int16)
    folded = (residual << 1) ^ (residual >> 15)
    planes = folded.astype(np.uint16).ravel()
    return zlib.compress((planes & 255).astype(np.uint8).tobytes() + (planes >> 8).astype(np.uint8).tobytes(), 9)
