"""Sharpness at edges, so that blur cannot pass for denoising."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SMOOTHING = 1.0  # pixels
STRONG = 100.0  # HU/mm: ten times the gradient that noise leaves after smoothing; lung walls have 200 and more


def sharpness(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> float | None:
    """How steep the full dose's strong edges are in the image: 1 as in the full dose, below 1 blurred.

    (slices, rows, columns) in HU; ``spacing``: mm along y, x. With t the gradient of the slightly smoothed full
    dose, it is the sum of grad(image) . t over that of grad(full) . t, where t is strong; None where it is
    nowhere. Linear in the image: noise that knows nothing of the edges does not change it on average.
    """
    ours, theirs = 0.0, 0.0
    for one, reference in zip(image, full, strict=True):
        edges = _gradient(gaussian_filter(reference.astype(np.float64), SMOOTHING, mode="nearest"), spacing)
        edges *= np.hypot(*edges) > STRONG
        ours += float((_gradient(one, spacing) * edges).sum())
        theirs += float((_gradient(reference, spacing) * edges).sum())
    return ours / theirs if theirs else None


def _gradient(hu: NDArray[np.generic], spacing: Sequence[float]) -> NDArray[np.float64]:
    """HU/mm along y, x."""
    return np.stack([np.gradient(hu.astype(np.float64), step, axis=axis) for axis, step in enumerate(spacing)])
