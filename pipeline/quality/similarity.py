"""Similarity of a denoised image to the full dose: squared error, SSIM and MS-SSIM.

All on -1024 to 3072 HU as [0, 1]. Arguments are (slices, rows, columns) in HU, sides at least 161 pixels for the five
scales of MS-SSIM.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.intensity import HU_HIGH, HU_LOW
from pipeline.kernels.choice import uses_kernels
from pipeline.quality.batches import batches
from pipeline.quality.ssim import ms_ssim, ssim

Similarity = Callable[[Tensor, Tensor, float], Tensor]


def squared_errors(image: Tensor, full: Tensor) -> list[float]:
    """Compute the mean squared error of each slice; squares are summed in float64."""
    means = [(a.double() - b).square().mean((1, 2)) for a, b in batches(image, full)]
    return [error / (HU_HIGH - HU_LOW) ** 2 for error in torch.cat(means).tolist()]


def ssim_by_slice(image: Tensor, full: Tensor) -> list[float]:
    """Compute SSIM of each slice."""
    return _by_slice(ssim, image, full)


def ms_ssim_by_slice(image: Tensor, full: Tensor) -> list[float]:
    """Compute MS-SSIM of each slice."""
    return _by_slice(ms_ssim, image, full)


def ssim_in_3d(image: Tensor, full: Tensor) -> float:
    """Compute SSIM of a volume; its window holds neighbours along z too."""
    return _in_3d(ssim, image, full)


def ms_ssim_in_3d(image: Tensor, full: Tensor) -> float:
    """Compute MS-SSIM of a volume; its window holds neighbours along z too."""
    return _in_3d(ms_ssim, image, full)


def _by_slice(similarity: Similarity, image: Tensor, full: Tensor) -> list[float]:
    values: list[float] = similarity(_unit(image)[:, None], _unit(full)[:, None], 1.0).tolist()
    return values


def _in_3d(similarity: Similarity, image: Tensor, full: Tensor) -> float:
    return float(similarity(_unit(image)[None, None], _unit(full)[None, None], 1.0))


def _unit(hu: Tensor) -> Tensor:
    """Scale -1024 to 3072 HU to 0 to 1, in float32; in float64 on a GPU without kernels, whose library takes TF32."""
    unit = (hu.clamp(HU_LOW, HU_HIGH).float() - HU_LOW) / (HU_HIGH - HU_LOW)
    return unit.double() if unit.is_cuda and not uses_kernels(unit) else unit
