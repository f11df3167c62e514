"""Blocks of soft tissue, and the power of noise in them by frequency."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import fft2
from torch.nn.functional import avg_pool2d

Planes = NDArray[np.float32]
Power = NDArray[np.float64]
Indices = NDArray[np.int64]
SOFT_TISSUE_HU = (-20.0, 130.0)
DIRECTIONS = 12
"""Sectors of half a turn, the first centred on the direction of the image's rows, the next towards its columns.

Noise along the axes of a body differs most from that of other directions, so they have their own sectors.
"""
_PARTS = 4  # along a block's edge; their means show whether it is uniform
_PART_MARGIN = 30.0  # HU by which the mean of a part may leave soft tissue


def sector_of(direction: Power) -> Indices:
    """Return the sector of each direction, radians."""
    return np.asarray(np.rint(direction / (np.pi / DIRECTIONS)).astype(np.int64) % DIRECTIONS)


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``side`` x ``side`` pixels, one every half block; the frequencies of a block lie in rings.

    The number of a ring is its frequency in cycles a block.
    """

    side: int

    @property
    def step(self) -> int:
        """Pixels from a block to the next."""
        return self.side // 2

    def centres(self, side: int) -> Power:
        """Return the centres of blocks along an edge of ``side`` pixels, in pixels from the image's centre."""
        count = (side - self.side) // self.step + 1
        return np.asarray(np.arange(count) * self.step + (self.side - side) / 2, np.float64)

    def part_means(self, planes: Planes) -> Planes:
        """Return the means of the blocks' parts in planes (n, rows, columns), (n, parts down, parts across)."""
        return np.asarray(avg_pool2d(torch.from_numpy(planes), self.side // _PARTS).numpy())

    def unevenness(self, parts: Planes) -> NDArray[np.float64]:
        """Return the SD (HU) of the means of each block's parts; infinite if it is no soft tissue.

        The result is (n, blocks down, blocks across).
        """
        windows = sliding_window_view(parts, (_PARTS, _PARTS), (1, 2))[:, :: _PARTS // 2, :: _PARTS // 2]
        (low, high), mean = SOFT_TISSUE_HU, windows.mean((3, 4))
        is_soft = (windows.min((3, 4)) > low - _PART_MARGIN) & (windows.max((3, 4)) < high + _PART_MARGIN)
        return np.where(is_soft & (mean >= low) & (mean <= high), windows.std((3, 4)), np.inf)

    def cut(self, planes: NDArray[np.generic], plane: Indices, row: Indices, column: Indices) -> Planes:
        """Cut blocks, (blocks, side, side), out of planes (n, rows, columns); the indices count planes and blocks."""
        windows = sliding_window_view(planes, (self.side, self.side), (1, 2))
        return windows[plane, row * self.step, column * self.step].astype(np.float32)

    @cached_property
    def _ring(self) -> Indices:
        """The ring of each frequency of a block."""
        axis = np.fft.fftfreq(self.side, 1 / self.side)
        return np.asarray(np.rint(np.hypot(axis[:, None], axis)).ravel(), np.int64)

    @cached_property
    def ring_bins(self) -> Indices:
        """Number of frequencies in each ring."""
        return np.bincount(self._ring)

    @cached_property
    def _in_ring(self) -> Power:
        return np.asarray((self._ring[:, None] == np.arange(len(self.ring_bins))) / self.ring_bins)

    @property
    def wave_steps(self) -> int:
        """Number of :attr:`waves` to a cycle a pixel."""
        return 3 * self.side

    @cached_property
    def waves(self) -> tuple[Power, Power]:
        """Frequencies along the rows and along the columns, cycles a pixel, of waves of half a plane."""
        axis = (np.arange(self.wave_steps) + 0.5) / self.wave_steps - 0.5
        y, x = np.meshgrid(axis[axis > 0], axis, indexing="ij")
        return x.ravel(), y.ravel()

    @cached_property
    def wave_power(self) -> Power:
        """Power in each ring, (waves, rings), of waves whose variance is 1 and whose phase is random."""
        x, y = (np.exp(2j * np.pi * np.outer(axis, np.arange(self.side))) for axis in self.waves)
        planes = y[:, :, None] * x[:, None]
        return self.ring_power(planes.real.astype(np.float32)) + self.ring_power(planes.imag.astype(np.float32))

    @cached_property
    def _taper(self) -> Planes:
        hann = np.hanning(self.side + 2)[1:-1]
        taper = np.outer(hann, hann)
        return np.asarray(taper / np.sqrt((taper**2).mean()), np.float32)

    @cached_property
    def _trends(self) -> Planes:
        """Orthonormal planes and parabolas, (pixels of a block, 6)."""
        y, x = np.mgrid[: self.side, : self.side] - (self.side - 1) / 2
        trends = np.stack([np.ones_like(x), y, x, y * y, y * x, x * x])
        return np.linalg.qr(trends.reshape(6, -1).T)[0].astype(np.float32)

    @cached_property
    def _in_sector(self) -> NDArray[np.bool_]:
        axis = np.fft.fftfreq(self.side)
        return np.asarray(sector_of(np.arctan2(axis[:, None], axis)).reshape(-1, 1) == np.arange(DIRECTIONS))

    def ring_power(self, blocks: Planes) -> Power:
        """Return the mean power in each ring, (blocks, rings), HU^2; the mean over all frequencies is the variance."""
        return self._power(blocks) @ self._in_ring

    def sector_power(self, blocks: Planes) -> Power:
        """Return the mean over blocks of what each sector gives to the mean power of a ring, (rings, DIRECTIONS)."""
        return np.asarray((self._in_ring * self._power(blocks).mean(0)[:, None]).T @ self._in_sector)

    def _power(self, blocks: Planes) -> Power:
        """Return the power of blocks without their trends, (blocks, frequencies)."""
        flat = blocks.reshape(len(blocks), self.side**2)
        even = (flat - (flat @ self._trends) @ self._trends.T).reshape(blocks.shape)
        spectra = fft2(even * self._taper).reshape(flat.shape)
        return np.asarray((spectra.real**2 + spectra.imag**2) / self.side**2, np.float64)

    def variance(self, power: Power) -> Power:
        """Return the variance from the power of rings, (..., rings)."""
        return np.asarray((power * self.ring_bins).sum(-1) / self.side**2)


WIDE = Blocks(24)
"""For spectra: 17 mm at 0.7 mm, which fits into the muscles, the heart and the liver."""
NARROW = Blocks(12)
"""For the level beside the lungs, where soft tissue is narrow."""
