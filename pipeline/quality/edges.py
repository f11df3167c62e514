"""Sharpness at edges: it falls where a denoiser blurs, even if the error gets smaller."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.quality.batches import batches

SMOOTHING = 1.0  # pixels
_RADIUS = 4  # pixels of the Gaussian on either side, beyond which its weights are below 1e-5 of the largest
STRONG = 100.0  # HU/mm: ten times the gradient that noise leaves after smoothing; lung walls have 200 and more


def sharpness(image: Tensor, full: Tensor, spacing: Sequence[float]) -> float | None:
    """Compute how steep the full dose's strong edges are in the image: 1 as in the full dose, below 1 blurred.

    (slices, rows, columns) in HU; ``spacing``: mm along y, x. Let t be the gradient of the slightly smoothed full dose.
    Sharpness is the sum of grad(image) . t divided by that of grad(full) . t, over the pixels where t is strong; None
    if there are no such pixels. It is linear in the image, so noise that is independent of the edges does not change
    it on average.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=image.device)
    for planes, references in batches(image, full):
        edges = _gradient(_smooth(references.double()), spacing)
        edges *= torch.hypot(*edges) > STRONG
        sums += torch.stack([(_gradient(hu.double(), spacing) * edges).sum() for hu in (planes, references)])
    of_image, of_full = sums.tolist()
    return of_image / of_full if of_full else None


def _gradient(hu: Tensor, spacing: Sequence[float]) -> Tensor:
    """Compute the gradient along y, x in HU/mm."""
    return torch.stack(torch.gradient(hu, spacing=tuple(spacing), dim=(1, 2)))


def _smooth(hu: Tensor) -> Tensor:
    """Average under a Gaussian in the plane; pixels at the rim count for those beyond it."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1)
    weights = torch.softmax(-(offsets**2) / (2 * SMOOTHING**2), 0, torch.float64).tolist()
    for axis in (1, 2):
        side = hu.shape[axis]
        padded = hu.index_select(axis, torch.arange(-_RADIUS, side + _RADIUS, device=hu.device).clamp(0, side - 1))
        hu = torch.zeros_like(hu)
        for start, weight in enumerate(weights):
            hu.add_(padded.narrow(axis, start, side), alpha=weight)
    return hu
