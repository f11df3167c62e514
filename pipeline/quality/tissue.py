"""The body in a slice, and the bias of HU by tissue."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter
from torch import Tensor

from pipeline.quality.batches import batches

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
    enclosed = _without_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
    for _ in range(_WIDTH // 2):
        enclosed = _eroded(enclosed)
    return enclosed


def _without_holes(mask: Mask) -> Mask:
    """As SciPy's ``binary_fill_holes``, in a third of its time: what is not joined to the border is filled."""
    gaps, count = label(~mask)
    is_outside = np.zeros(count + 1, np.bool_)
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        is_outside[edge] = True
    is_outside[0] = False  # the mask itself
    return np.asarray(~is_outside[gaps])


def _eroded(mask: Mask) -> Mask:
    """As SciPy's ``binary_erosion`` with what is beyond the border in the mask, in a tenth of its time."""
    wide = np.pad(mask, 1, constant_values=True)
    return np.asarray(mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def classify(even: NDArray[np.float64], inside: Mask) -> NDArray[np.uint8]:
    """Number the tissue of each pixel from 1 on, in the order of ``TISSUES``; 0 is no tissue of these, or no body.

    A pixel's tissue is decided by ``even``, the 5 x 5 mean of the full dose. By the pixel alone, much noise would put
    it into another tissue, and any denoiser would seem to be biased (regression to the mean).
    """
    tissue = np.zeros(even.shape, np.uint8)
    for number, (low, high) in enumerate(TISSUES.values(), start=1):
        tissue[inside & (even >= low) & (even <= high)] = number
    return tissue


def tissue_bias(image: Tensor, full: Tensor, tissue: Tensor) -> dict[str, float | None]:
    """Average image minus full dose (HU) over each tissue of (slices, rows, columns); None where it has no pixel.

    ``tissue``: as :func:`classify` numbers them.
    """
    sums = torch.zeros(2, len(TISSUES), dtype=torch.float64, device=image.device)
    for planes, references, numbers in batches(image, full, tissue):
        difference = planes.double() - references
        for index in range(len(TISSUES)):
            chosen = numbers == index + 1
            sums[0, index] += torch.where(chosen, difference, 0.0).sum()
            sums[1, index] += chosen.sum()
    return {name: total / count if count else None for name, total, count in zip(TISSUES, *sums.tolist(), strict=True)}
