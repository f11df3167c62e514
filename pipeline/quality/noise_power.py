"""Noise in uniform soft tissue: standard deviation and noise power spectrum.

Noise is image minus full dose, so that anatomy cancels. The full dose has noise too, which cannot be measured so: where
a network removes it, the difference counts as noise of the network; where it stays in the image, it does not count.

Spectrum after ICRU report 87 (2012) and Boedeker, Cooper and McNitt-Gray 2007
(doi:10.1088/0031-9155/52/14/002).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.quality.batches import batches
from pipeline.quality.tissue import SOFT_TISSUE

BLOCK = 24  # pixels: 17 mm at 0.7 mm, which fits into the muscles, the heart and the liver
RING = 0.05  # cycles/mm
_MOST_UNEVEN = 20.0  # HU, standard deviation of the 5 x 5 means in a block

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Noise of a scan; ``blocks``: its uniform blocks, and if there is none there are no numbers either.

    ``sd``: HU, about the mean of each block. ``mean_frequency``: cycles/mm, weighted by power. ``frequency``: middles
    of rings of width ``RING``, cycles/mm; ``nps``: HU^2 mm^2, the mean of each ring.
    """

    blocks: int
    sd: float | None = None
    mean_frequency: float | None = None
    frequency: tuple[float, ...] = ()
    nps: tuple[float, ...] = ()


def noise(image: Tensor, full: Tensor, uniform: Tensor, spacing: Sequence[float]) -> Noise:
    """Measure the noise of (slices, rows, columns) in HU.

    Args:
        image: what has the noise.
        full: the full dose.
        uniform: which blocks count, as :func:`uniform_blocks` finds them, a plane of blocks a slice.
        spacing: mm along y, x.
    """
    power = torch.zeros(BLOCK, BLOCK, dtype=torch.float64, device=image.device)
    for planes, references, chosen in batches(image, full, uniform):
        blocks = _blocks(planes.double() - references)[chosen]
        if len(blocks):
            spectra = torch.fft.fft2(blocks - blocks.mean((1, 2), keepdim=True))
            power += (spectra.real**2 + spectra.imag**2).sum(0)
    count = int(uniform.sum())
    return _spectrum(power.cpu().numpy(), count, spacing) if count else Noise(0)


def uniform_blocks(even: Plane) -> NDArray[np.bool_]:
    """Tell for each block of a slice whether it holds only even soft tissue; ``even``: 5 x 5 means of the full dose."""
    blocks, (low, high) = _blocks(torch.from_numpy(even)), SOFT_TISSUE
    is_soft = (blocks.amin((-2, -1)) >= low) & (blocks.amax((-2, -1)) <= high)
    uniform: NDArray[np.bool_] = (is_soft & (blocks.std((-2, -1), correction=0) <= _MOST_UNEVEN)).numpy()
    return uniform


def _blocks(planes: Tensor) -> Tensor:
    """Cut (..., rows, columns) into (..., rows of blocks, columns of blocks, BLOCK, BLOCK), less what is left over."""
    rows, columns = (side // BLOCK for side in planes.shape[-2:])
    even = planes[..., : rows * BLOCK, : columns * BLOCK]
    return even.reshape(*planes.shape[:-2], rows, BLOCK, columns, BLOCK).transpose(-3, -2)


def _spectrum(power: Plane, blocks: int, spacing: Sequence[float]) -> Noise:
    dy, dx = spacing
    nps = power * dy * dx / (blocks * BLOCK**2)
    cell = 1 / (BLOCK * dy * BLOCK * dx)
    radius = np.hypot(np.fft.fftfreq(BLOCK, dy)[:, None], np.fft.fftfreq(BLOCK, dx))
    sums, counts = _rings(radius, nps)
    rings = np.flatnonzero(counts)
    return Noise(
        blocks, float(np.sqrt(nps.sum() * cell)), float((radius * nps).sum() / nps.sum()) if nps.any() else None,
        tuple(((rings + 0.5) * RING).tolist()), tuple((sums[rings] / counts[rings]).tolist()),
    )  # fmt: skip


def _rings(radius: Plane, nps: Plane) -> tuple[Plane, Plane]:
    """Sum the power in each ring and count its frequencies; frequency zero, without power in a block, is left out."""
    ring = np.floor(radius.ravel()[1:] / RING).astype(np.int64)
    return np.bincount(ring, nps.ravel()[1:]).astype(np.float64), np.bincount(ring).astype(np.float64)
