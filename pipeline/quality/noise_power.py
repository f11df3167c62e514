"""Noise in uniform soft tissue: standard deviation and noise power spectrum.

Noise is image minus full dose, so that anatomy cancels. What the full dose has of its own remains
unknown: what a network removes of it counts as noise, and what it keeps does not.

Spectrum after ICRU report 87 (2012) and Boedeker, Cooper and McNitt-Gray 2007
(doi:10.1088/0031-9155/52/14/002).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.tissue import SOFT_TISSUE, smoothed

BLOCK = 24  # pixels: 17 mm at 0.7 mm, which the muscles, the heart and the liver hold
RING = 0.05  # cycles/mm
_MOST_UNEVEN = 20.0  # HU, standard deviation of the 5 x 5 means in a block

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Noise of one scan; ``blocks`` 0 and no numbers where no uniform block was found.

    ``sd``: HU, about each block's own mean. ``frequency``: cycles/mm, middles of rings of ``RING``.
    ``nps``: HU^2 mm^2, mean of each ring; ``area``: (cycles/mm)^2 that it stands for, so that the sum of
    ``nps * area`` is ``sd`` squared. ``mean_frequency``: cycles/mm, weighted by power.
    """

    blocks: int
    sd: float | None = None
    mean_frequency: float | None = None
    frequency: tuple[float, ...] = ()
    nps: tuple[float, ...] = ()
    area: tuple[float, ...] = ()


def noise(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> Noise:
    """Noise of (slices, rows, columns) in HU; ``spacing``: mm along y, x."""
    power, blocks = np.zeros((BLOCK, BLOCK)), 0
    for one, reference in zip(image, full, strict=True):
        difference = one.astype(np.float64) - reference
        for corner in uniform_blocks(reference):
            block = difference[corner]
            power += np.abs(np.fft.fft2(block - block.mean())) ** 2
            blocks += 1
    return _summed_up(power, blocks, spacing) if blocks else Noise(0)


def uniform_blocks(full: NDArray[np.generic]) -> Iterator[tuple[slice, slice]]:
    """Places of the blocks of a full-dose slice that hold nothing but even soft tissue."""
    even = smoothed(full)
    low, high = SOFT_TISSUE
    for top in range(0, full.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, full.shape[1] - BLOCK + 1, BLOCK):
            place = slice(top, top + BLOCK), slice(left, left + BLOCK)
            block = even[place]
            if low <= block.min() and block.max() <= high and block.std() <= _MOST_UNEVEN:
                yield place


def _summed_up(power: Plane, blocks: int, spacing: Sequence[float]) -> Noise:
    dy, dx = spacing
    nps = power * dy * dx / (blocks * BLOCK**2)
    cell = 1 / (BLOCK * dy * BLOCK * dx)
    radius = np.hypot(np.fft.fftfreq(BLOCK, dy)[:, None], np.fft.fftfreq(BLOCK, dx))
    sums, counts = _rings(radius, nps)
    held = np.flatnonzero(counts)
    return Noise(
        blocks, float(np.sqrt(nps.sum() * cell)), float((radius * nps).sum() / nps.sum()) if nps.any() else None,
        tuple(((held + 0.5) * RING).tolist()), tuple((sums[held] / counts[held]).tolist()),
        tuple((counts[held] * cell).tolist()),
    )  # fmt: skip


def _rings(radius: Plane, nps: Plane) -> tuple[Plane, Plane]:
    """Sum of the power in each ring and how many frequencies it has, without zero, where a block has none."""
    ring = np.floor(radius.ravel()[1:] / RING).astype(np.int64)
    return np.bincount(ring, nps.ravel()[1:]).astype(np.float64), np.bincount(ring).astype(np.float64)
