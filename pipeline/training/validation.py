"""Validation during a training: the errors of the network's output and of its input, against the full dose."""

import math

from torch import Tensor

from pipeline.losses import CompositeLoss

SUMS = ("loss", "samples", "squares", "low_squares", "voxels")


def judge(output: Tensor, loss: CompositeLoss, low: Tensor, full: Tensor, scales: Tensor) -> dict[str, float]:
    """Sum the errors of a network's output over one sample, in float32.

    ``output``, ``low``, ``full``: (n, 1, sides). ``scales``: offset and width of low and full dose, (2, 2).
    """
    loss_of_sample = float(loss(output, full))
    hu = [x.double() * width + offset for x, (offset, width) in zip((low, full), scales.tolist(), strict=True)]
    offset, width = scales[1].tolist()
    return {
        "loss": loss_of_sample,
        "samples": 1.0,
        "squares": float((output.double() * width + offset - hu[1]).square().sum()),
        "low_squares": float((hu[0] - hu[1]).square().sum()),
        "voxels": float(full.numel()),
    }


def summed_up(sums: dict[str, float]) -> dict[str, float]:
    """Return the mean loss, where there is one, and the RMSE of output and low-dose input (HU), from sums over all."""
    return {
        **({"loss": sums["loss"] / sums["samples"]} if sums["samples"] else {}),
        "rmse_hu": math.sqrt(sums["squares"] / sums["voxels"]),
        "low_dose_rmse_hu": math.sqrt(sums["low_squares"] / sums["voxels"]),
    }
