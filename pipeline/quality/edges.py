"""Sharpness at edges: it falls where a denoiser blurs, even if the error gets smaller."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SMOOTHING = 1.0  # pixels
STRONG = 100.0  # HU/mm: ten times the gradient that noise leaves after smoothing; lung walls have 200 and more


def sharpness(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> float | None:
    """Compute how steep the full dose's strong edges are in the image: 1 as in the full dose, below 1 blurred.

    (slices, rows, columns) in HU; ``spacing``: mm along y, x. Let t be the gradient of the slightly smoothed full dose.
    Sharpness is the sum of grad(image) . t divided by that of grad(full) . t, over the pixels where t is strong; None
    if there are no such pixels. It is linear in the image, so noise that is independent of the edges does not change
    it on average.
    """
    of_image, of_full = 0.0, 0.0
    for plane, reference in zip(image, full, strict=True):
        edges = _gradient(gaussian_filter(reference.astype(np.float64), SMOOTHING, mode="nearest"), spacing)
        edges *= np.hypot(*edges) > STRONG
        of_image += float((_gradient(plane, spacing) * edges).sum())
        of_full += float((_gradient(reference, spacing) * edges).sum())
    return of_image / of_full if of_full else None


def _gradient(hu: NDArray[np.generic], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Compute the gradient along y, x in HU/mm."""
    return np.stack([np.gradient(hu.astype(np.float64), step, axis=axis) for axis, step in enumerate(spacing)])
