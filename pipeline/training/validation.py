"""How near a network in training is to the full dose, beside the low-dose input itself."""

import math

import torch
from torch import Tensor, nn

from pipeline.losses import CompositeLoss

SUMS = ("loss", "samples", "squares", "low_squares", "voxels")


@torch.no_grad()
def judge(network: nn.Module, loss: CompositeLoss, low: Tensor, full: Tensor, scales: Tensor) -> dict[str, float]:
    """Sums over one sample, (n, 1, sides); ``scales``: offset and width of the low and of the full dose, (2, 2)."""
    output = network(low).float()
    hu = [x.double() * width + offset for x, (offset, width) in zip((low, full), scales.tolist(), strict=True)]
    offset, width = scales[1].tolist()
    return {
        "loss": float(loss(output, full)),
        "samples": 1.0,
        "squares": float((output.double() * width + offset - hu[1]).square().sum()),
        "low_squares": float((hu[0] - hu[1]).square().sum()),
        "voxels": float(full.numel()),
    }


def summed_up(sums: dict[str, float]) -> dict[str, float]:
    """Mean loss, and RMSE of output and low-dose input (HU), from sums over all samples."""
    return {
        "loss": sums["loss"] / sums["samples"],
        "rmse_hu": math.sqrt(sums["squares"] / sums["voxels"]),
        "low_dose_rmse_hu": math.sqrt(sums["low_squares"] / sums["voxels"]),
    }
