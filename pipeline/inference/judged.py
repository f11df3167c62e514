"""A trained network applied to HU."""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.inference.stream import windows
from pipeline.intensity import scaling
from pipeline.settings.cells import CellSettings

Pixel = TypeVar("Pixel", bound=np.generic)


@torch.no_grad()
def denoise(model: nn.Module, cell: CellSettings, low: NDArray[np.int16], crop: int | None) -> NDArray[np.float32]:
    """Denoise the centre of (slices, rows, columns) in HU, in the windows in which whole scans are denoised.

    ``crop``: side of the centre, None for all; intensities are scaled as those of whole slices. Works where the
    model's weights lie.
    """
    device = next(model.parameters()).device
    total = np.zeros_like(centre(low, crop), np.float32)
    for window in windows(cell, len(low)):
        volume, count = low[window.slices], len(window.weights)
        scale = scaling(cell.training.scaling, volume)
        x = torch.from_numpy(scale.to_network(centre(volume, crop))).to(device)
        y = model(x[:, None])[:, 0] if cell.dims == 2 else model(x[None, None])[0, 0]
        total[window.slices[:count]] += window.weights[:, None, None] * scale.to_hu(y.cpu().numpy())[:count]
    return total


def centre(image: NDArray[Pixel], crop: int | None) -> NDArray[Pixel]:
    """The centre of each slice, ``crop`` pixels a side; all of it with None."""
    if crop is None:
        return image
    top, left = ((side - crop) // 2 for side in image.shape[1:])
    return image[:, top : top + crop, left : left + crop]
