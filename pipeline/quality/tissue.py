"""The body in a slice, and the bias of HU by tissue."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes, label, uniform_filter

SOFT_TISSUE = (0.0, 100.0)
TISSUES = {"lung": (-950.0, -700.0), "soft": SOFT_TISSUE, "bone": (300.0, np.inf)}
"""HU of the smoothed full dose. Vessels and a heart full of contrast medium are ``bone`` as well."""

_WIDTH = 5
_DENSE = -300.0  # HU: skin and chest wall, not the blanket's, the mattress's or the lung's

Mask = NDArray[np.bool_]


def smoothed(hu: NDArray[np.generic]) -> NDArray[np.float64]:
    """Mean of 5 x 5 pixels of one slice."""
    return np.asarray(uniform_filter(hu.astype(np.float64), _WIDTH, mode="nearest"))


def body(full: NDArray[np.generic]) -> Mask:
    """Where the body is in whole slices (slices, rows, columns) in HU, lungs and all, without the rim of the skin.

    Of each slice the largest dense piece with what it encloses: a lung that a crop cuts open would be enclosed by
    nothing. Table and blankets, which are as light as lung, lie outside, and so do arms apart from the trunk.
    """
    return np.stack([_body(smoothed(one) > _DENSE) for one in full])


def _body(dense: Mask) -> Mask:
    pieces, count = label(dense)
    if not count:
        return dense
    trunk = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.asarray(binary_erosion(binary_fill_holes(trunk), iterations=_WIDTH // 2, border_value=1))


def tissue_bias(image: NDArray[np.generic], full: NDArray[np.generic], inside: Mask) -> dict[str, float | None]:
    """Mean of image minus full dose (HU) in each tissue of (slices, rows, columns), or None where there is none.

    ``inside``: where to look, as :func:`body` has it. Which pixel is which tissue is told from 5 x 5 means of the full
    dose: by its single pixels, those with much noise would be taken for another tissue, and any denoiser would seem
    to be biased (regression to the mean).
    """
    sums, counts = dict.fromkeys(TISSUES, 0.0), dict.fromkeys(TISSUES, 0)
    for one, reference, here in zip(image, full, inside, strict=True):
        difference, even = one.astype(np.float64) - reference, smoothed(reference)
        for tissue, (low, high) in TISSUES.items():
            chosen = here & (even >= low) & (even <= high)
            sums[tissue] += float(difference[chosen].sum())
            counts[tissue] += int(chosen.sum())
    return {tissue: sums[tissue] / counts[tissue] if counts[tissue] else None for tissue in TISSUES}
