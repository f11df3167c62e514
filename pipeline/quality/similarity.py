"""Similarity of a denoised image to the full dose: squared error, SSIM and MS-SSIM.

All on -1024 to 3072 HU as [0, 1]. Arguments are (slices, rows, columns) in HU, sides at least 161 pixels for the five
scales of MS-SSIM.
"""

import torch
from torch import Tensor

from pipeline.intensity import HU_HIGH, HU_LOW
from pipeline.kernels.choice import uses_kernels
from pipeline.quality.batches import batches
from pipeline.quality.ssim import ssim_and_ms_ssim


def squared_errors(image: Tensor, full: Tensor) -> list[float]:
    """Compute the mean squared error of each slice; squares are summed in float64."""
    means = [(a.double() - b).square().mean((1, 2)) for a, b in batches(image, full)]
    return [error / (HU_HIGH - HU_LOW) ** 2 for error in torch.cat(means).tolist()]


def by_slice(image: Tensor, full: Tensor) -> list[list[float]]:
    """Compute SSIM and MS-SSIM of each slice, two numbers a slice."""
    similarities = ssim_and_ms_ssim(_unit(image)[:, None], _unit(full)[:, None], 1.0)
    values: list[list[float]] = torch.stack(similarities, 1).tolist()
    return values


def in_3d(image: Tensor, full: Tensor) -> list[float]:
    """Compute SSIM and MS-SSIM of a volume; their window holds neighbours along z too."""
    similarities = ssim_and_ms_ssim(_unit(image)[None, None], _unit(full)[None, None], 1.0)
    return [float(value) for value in similarities]


def _unit(hu: Tensor) -> Tensor:
    """Scale -1024 to 3072 HU to 0 to 1, in float32; in float64 on a GPU without kernels, whose library takes TF32."""
    unit = (hu.clamp(HU_LOW, HU_HIGH).float() - HU_LOW) / (HU_HIGH - HU_LOW)
    return unit.double() if unit.is_cuda and not uses_kernels(unit) else unit
