"""Noise in uniform soft tissue: standard deviation and noise power spectrum.

Noise is image minus full dose, so that anatomy cancels. The full dose has noise too, which cannot be measured so: where
a network removes it, the difference counts as noise of the network; where it stays in the image, it does not count.

Spectrum after ICRU report 87 (2012) and Boedeker, Cooper and McNitt-Gray 2007
(doi:10.1088/0031-9155/52/14/002).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.tissue import SOFT_TISSUE, smoothed

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


def noise(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> Noise:
    """Measure the noise of (slices, rows, columns) in HU; ``spacing``: mm along y, x."""
    power, blocks = np.zeros((BLOCK, BLOCK)), 0
    for plane, reference in zip(image, full, strict=True):
        difference = plane.astype(np.float64) - reference
        for window in uniform_blocks(reference):
            block = difference[window]
            power += np.abs(np.fft.fft2(block - block.mean())) ** 2
            blocks += 1
    return _spectrum(power, blocks, spacing) if blocks else Noise(0)


def uniform_blocks(full: NDArray[np.generic]) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of each block of a full-dose slice that holds only even soft tissue."""
    even = smoothed(full)
    low, high = SOFT_TISSUE
    for top in range(0, full.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, full.shape[1] - BLOCK + 1, BLOCK):
            window = slice(top, top + BLOCK), slice(left, left + BLOCK)
            block = even[window]
            if low <= block.min() and block.max() <= high and block.std() <= _MOST_UNEVEN:
                yield window


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
