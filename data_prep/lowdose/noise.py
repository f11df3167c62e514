"""Low dose from full dose: the noise that is missing is made, reconstructed and added.

``low = full + 1000 / water * FBP(n)``. Nothing of the anatomy is reprojected, so both images stay
aligned to the voxel. The variance of n in the log sinogram follows from var(ln y) = 1/N + s^2/N^2
(N counts, s electronic noise) at the dose fraction a, less what the full dose has already:
``(1-a)/a * e^p/N0 * (1 + (1+a)/a * s^2 e^p/N0)``. Not modelled: correlation of overlapping slices,
beam hardening, scatter, helical interpolation, iterative reconstruction.
"""

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.projector import Backprojector, CoarseProjector
from data_prep.progress import Progress, untold
from data_prep.settings import LowDoseSettings
from data_prep.volume import AIR_HU, CTVolume

_BATCH = 16
BACKPROJECTORS: dict[str, type[Backprojector] | type[GriddedBackprojector]] = {
    "exact": Backprojector,
    "gridded": GriddedBackprojector,
}


class LowDoseSimulator:
    """Adds low-dose noise to slices of one image grid (``side`` pixels of ``pixel`` mm)."""

    def __init__(self, settings: LowDoseSettings, side: int, pixel: float, device: str = "cpu") -> None:
        self.settings, self.device = settings, torch.device(device)
        self.geometry = FanGeometry(settings.geometry, side, pixel)
        self.project = CoarseProjector(self.geometry, self.device)
        self.reconstruct = BACKPROJECTORS[settings.backprojection](
            self.geometry, settings.window, settings.cutoff, self.device
        )

    def noise_hu(self, full_hu: Tensor, seeds: list[int]) -> Tensor:
        """Noise (HU) to add to full-dose slices (HU), both (side, side, batch); one seed a slice."""
        water = self.settings.water_per_mm
        line_integrals = self.project((water * (1 + full_hu / 1000)).clamp(min=0))
        deviation = self.variance(line_integrals).sqrt()
        drawn = torch.stack([self._draw(seed) for seed in seeds], -1).to(self.device)
        return self.reconstruct(drawn * deviation) * (1000 / water)

    def variance(self, line_integrals: Tensor) -> Tensor:
        """Variance of the log-sinogram noise that turns full dose into the dose fraction."""
        a = self.settings.dose
        least = 1 / (a * self.settings.photons)  # a detector does not count fewer than one photon
        inverse_counts = torch.exp(line_integrals.clamp(max=-math.log(least))) / self.settings.photons
        electronic = (1 + a) / a * self.settings.electronic_sd**2 * inverse_counts
        return (1 - a) / a * inverse_counts * (1 + electronic)

    def _draw(self, seed: int) -> Tensor:
        """Standard normal numbers of one slice, made on the CPU so that every device gets the same."""
        scanner, generator = self.settings.geometry, torch.Generator().manual_seed(seed)
        turn = torch.randn(4, self.geometry.quarter_views, scanner.channels, generator=generator)
        return turn.permute(1, 2, 0)


def slice_seed(seed: int, scan: str, index: int) -> int:
    """Seed of one slice: depends on nothing but the three."""
    name = f"{seed}/{scan}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


def simulate(
    volume: CTVolume, settings: LowDoseSettings, scan: str, *, threads: int = 1,
    progress: Progress = untold,
) -> NDArray[np.int16]:  # fmt: skip
    """The low-dose partner of a full-dose volume: int16 HU, same shape, not below -1024.

    The result is the same whatever the number of threads: each slice has its own seed.
    """
    simulator = LowDoseSimulator(settings, volume.hu.shape[1], volume.spacing[2])
    low = np.empty_like(volume.hu)
    slices = len(volume.hu)
    with ThreadPoolExecutor(threads) as pool:
        jobs = pool.map(lambda start: _simulate_batch(simulator, volume.hu, scan, start), range(0, slices, _BATCH))
        for start, batch in _numbered(jobs):
            low[start : start + len(batch)] = batch
            progress(start + len(batch), slices, "slices")
    return low


def _numbered(batches: Iterator[NDArray[np.int16]]) -> Iterator[tuple[int, NDArray[np.int16]]]:
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch)


def _simulate_batch(simulator: LowDoseSimulator, hu: NDArray[np.int16], scan: str, start: int) -> NDArray[np.int16]:
    indices = range(start, min(start + _BATCH, len(hu)))
    full = torch.from_numpy(hu[start : indices.stop].astype(np.float32)).permute(1, 2, 0)
    seeds = [slice_seed(simulator.settings.seed, scan, index) for index in indices]
    low = full + simulator.noise_hu(full.to(simulator.device), seeds).cpu()
    return low.round().clamp(AIR_HU, 32767).permute(2, 0, 1).to(torch.int16).numpy()
