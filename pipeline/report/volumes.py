"""Neighbouring slices of one held-out scan: as they were judged, and packed for the page's viewer."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.settings.names import DDNET_2D, LOW_DOSE_INPUT, RED_CNN

Hu = NDArray[np.int16]
PACKED_BYTES = 10 * 2**20
"""What the viewer's slices may take, before base64 makes them a third larger: the page stays below 25 MB."""


@dataclass(frozen=True)
class Stacks:
    """HU of the same slices, (slices, rows, columns): the low dose, the 2D networks, the best 3D one; the full dose."""

    images: Mapping[str, Hu]
    full: Hu

    @property
    def middle(self) -> int:
        """The slice that figures show."""
        return len(self.full) // 2


def read_stacks(root: Path, quality: pd.DataFrame, dose: float) -> Stacks | None:
    """What judging left in ``root/evaluation`` of the networks in ``quality``; None where nothing was judged."""
    models = list(quality.sort_values("rmse_hu_mean")["model"])
    best = next((model for model in models if model.startswith("3d")), None)
    names = {f"low dose ({100 * dose:g} %)": LOW_DOSE_INPUT, "2D-DDnet": DDNET_2D, "RED-CNN": RED_CNN,
             f"3D-DDnet ({best})": best}  # fmt: skip
    images, full = {}, None
    for name, model in names.items():
        if model in models:
            with np.load(root / "evaluation" / f"{model}.npz") as example:
                images[name], full = example["image"], example["full_dose"]
    return None if full is None else Stacks(images, full)


def viewer_data(stacks: Stacks) -> dict[str, Any]:
    """The stacks as plain values for JSON: as many slices around the middle as fit into ``PACKED_BYTES``."""
    named = {**stacks.images, "full dose": stacks.full}
    count, rows, columns = stacks.full.shape
    packed = [[pack(stack[z]) for stack in named.values()] for z in range(count)]
    first, stop = _fitting([sum(map(len, slice_)) for slice_ in packed])
    texts = [[base64.b64encode(plane).decode() for plane in slice_] for slice_ in packed[first:stop]]
    return {"names": list(named), "rows": rows, "columns": columns, "slices": texts}


def _fitting(sizes: list[int]) -> tuple[int, int]:
    """First and last but one of the slices that are kept: ends are left out in turn, but one always stays."""
    first, stop = 0, len(sizes)
    while stop - first > 1 and sum(sizes[first:stop]) > PACKED_BYTES:
        if (stop - first) % 2:
            first += 1
        else:
            stop -= 1
    return first, stop


def pack(image: Hu) -> bytes:
    """Deflate one slice (rows, columns) without loss.

    Each pixel less the mean of its left and upper neighbour, modulo 2^16; signs folded into the lowest bit; all low
    bytes, then all high bytes. ``viewer.js`` has the inverse. A quarter smaller than as two channels of a PNG, and
    no browser alters what does not pass through an image decoder and a canvas.
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
