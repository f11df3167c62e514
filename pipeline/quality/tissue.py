"""Bias of HU by tissue."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

SOFT_TISSUE = (0.0, 100.0)
TISSUES = {"lung": (-950.0, -700.0), "soft": SOFT_TISSUE, "bone": (300.0, np.inf)}
"""HU of the smoothed full dose."""

_WIDTH = 5


def smoothed(hu: NDArray[np.generic]) -> NDArray[np.float64]:
    """Mean of 5 x 5 pixels of one slice."""
    return np.asarray(uniform_filter(hu.astype(np.float64), _WIDTH, mode="nearest"))


def tissue_bias(image: NDArray[np.generic], full: NDArray[np.generic]) -> dict[str, float | None]:
    """Mean of image minus full dose (HU) in each tissue of (slices, rows, columns), or None where there is none.

    Which pixel is which tissue is told from 5 x 5 means of the full dose: by its single pixels, those with much
    noise would be taken for another tissue, and any denoiser would seem to be biased (regression to the mean).
    """
    sums, counts = dict.fromkeys(TISSUES, 0.0), dict.fromkeys(TISSUES, 0)
    for one, reference in zip(image, full, strict=True):
        difference, even = one.astype(np.float64) - reference, smoothed(reference)
        for tissue, (low, high) in TISSUES.items():
            inside = (even >= low) & (even <= high)
            sums[tissue] += float(difference[inside].sum())
            counts[tissue] += int(inside.sum())
    return {tissue: sums[tissue] / counts[tissue] if counts[tissue] else None for tissue in TISSUES}
