"""The body in a slice, and the bias of HU by tissue."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes, label, uniform_filter

SOFT_TISSUE = (0.0, 100.0)
TISSUES = {"lung": (-950.0, -700.0), "soft": SOFT_TISSUE, "bone": (300.0, np.inf)}
"""HU of the smoothed full dose. Vessels and a heart filled with contrast medium count as ``bone`` too."""

_WIDTH = 5
_DENSE = -300.0  # HU: skin and chest wall are above, blanket, mattress and lung below

Mask = NDArray[np.bool_]


def smoothed(hu: NDArray[np.generic]) -> NDArray[np.float64]:
    """Average 5 x 5 pixels around each pixel of a slice."""
    return np.asarray(uniform_filter(hu.astype(np.float64), _WIDTH, mode="nearest"))


def body(full: NDArray[np.generic]) -> Mask:
    """Find the body, with the lungs and without the rim of the skin, in uncropped (slices, rows, columns) in HU.

    In each slice it is the largest dense piece with all that it encloses. Slices must not be cropped, for nothing
    encloses a lung that is cut open. Table and blankets, as light as lung, are outside, and so are arms that do not
    touch the trunk.
    """
    return np.stack([_body(smoothed(plane) > _DENSE) for plane in full])


def _body(dense: Mask) -> Mask:
    pieces, count = label(dense)
    if not count:
        return dense
    trunk = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.asarray(binary_erosion(binary_fill_holes(trunk), iterations=_WIDTH // 2, border_value=1))


def tissue_bias(image: NDArray[np.generic], full: NDArray[np.generic], inside: Mask) -> dict[str, float | None]:
    """Average image minus full dose (HU) over each tissue of (slices, rows, columns); None where it has no pixel.

    ``inside``: the pixels to use, as :func:`body` returns them. A pixel's tissue is decided by the 5 x 5 mean of the
    full dose. By the pixel alone, much noise would put it into another tissue, and any denoiser would seem to be
    biased (regression to the mean).
    """
    sums, counts = dict.fromkeys(TISSUES, 0.0), dict.fromkeys(TISSUES, 0)
    for plane, reference, mask in zip(image, full, inside, strict=True):
        difference, even = plane.astype(np.float64) - reference, smoothed(reference)
        for tissue, (low, high) in TISSUES.items():
            chosen = mask & (even >= low) & (even <= high)
            sums[tissue] += float(difference[chosen].sum())
            counts[tissue] += int(chosen.sum())
    return {tissue: sums[tissue] / counts[tissue] if counts[tissue] else None for tissue in TISSUES}
