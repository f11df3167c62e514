"""A trained network applied to HU."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import CellSettings
from pipeline.intensity import scaling
from pipeline.models import DDnet
from pipeline.sampling import cover


@torch.no_grad()
def denoise(model: DDnet, cell: CellSettings, low: NDArray[np.int16]) -> NDArray[np.float32]:
    """Denoise (slices, rows, columns) in HU with volumes alike to those of training.

    Slices that lie in several volumes get the mean of their outputs. Works where the model's weights lie.
    """
    device = next(model.parameters()).device
    total, visits = np.zeros(low.shape, np.float32), np.zeros(len(low), np.float32)
    for chosen in cover(cell.sampling, len(low), cell.slices):
        volume = low[chosen]
        scale = scaling(cell.training.scaling, volume)
        x = torch.from_numpy(scale.to_network(volume)).to(device)
        y = model(x[:, None])[:, 0] if cell.dims == 2 else model(x[None, None])[0, 0]
        total[chosen] += scale.to_hu(y.cpu().numpy())
        visits[chosen] += 1
    return total / visits[:, None, None]
