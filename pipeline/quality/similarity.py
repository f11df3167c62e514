"""Similarity of a denoised image to the full dose: squared error, PSNR, SSIM and MS-SSIM.

All on -1024 to 3072 HU as [0, 1]. Arguments are (slices, rows, columns) in HU, sides at least 161 pixels for the five
scales of MS-SSIM.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.intensity import HU_HIGH, HU_LOW, scaling
from pipeline.quality.ssim import ms_ssim, ssim

Hu = NDArray[np.generic]
Similarity = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def squared_errors(image: Hu, full: Hu) -> list[float]:
    """Compute the mean squared error of each slice; squares are summed in float64."""
    errors = [float(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(image, full, strict=True)]
    return [error / (HU_HIGH - HU_LOW) ** 2 for error in errors]


def rmse_hu(squared_error: float) -> float:
    """Convert a mean squared error to its root in HU."""
    return math.sqrt(squared_error * (HU_HIGH - HU_LOW) ** 2)


def psnr(squared_error: float) -> float:
    """Convert a mean squared error to the peak signal-to-noise ratio in dB; infinite without any error."""
    return -10 * math.log10(squared_error) if squared_error else math.inf


def ssim_by_slice(image: Hu, full: Hu) -> list[float]:
    """Compute SSIM of each slice."""
    return _by_slice(ssim, image, full)


def ms_ssim_by_slice(image: Hu, full: Hu) -> list[float]:
    """Compute MS-SSIM of each slice."""
    return _by_slice(ms_ssim, image, full)


def ssim_in_3d(image: Hu, full: Hu) -> float:
    """Compute SSIM of a volume; its window holds neighbours along z too."""
    return _in_3d(ssim, image, full)


def ms_ssim_in_3d(image: Hu, full: Hu) -> float:
    """Compute MS-SSIM of a volume; its window holds neighbours along z too."""
    return _in_3d(ms_ssim, image, full)


def _by_slice(similarity: Similarity, image: Hu, full: Hu) -> list[float]:
    values: list[float] = similarity(_unit(image)[:, None], _unit(full)[:, None], 1.0).tolist()
    return values


def _in_3d(similarity: Similarity, image: Hu, full: Hu) -> float:
    return float(similarity(_unit(image)[None, None], _unit(full)[None, None], 1.0))


def _unit(hu: Hu) -> torch.Tensor:
    return torch.from_numpy(scaling("unit", hu).to_network(np.clip(hu, HU_LOW, HU_HIGH)))
