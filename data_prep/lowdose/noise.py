"""Low dose from full dose: the noise that is missing is made, reconstructed and added.

``low = full + 1000 / water * FBP(n)``. Nothing of the anatomy is reprojected, so both images stay
aligned to the voxel. The variance of n in the log sinogram follows from var(ln y) = 1/N + s^2/N^2
(N counts, s electronic noise) at the dose fraction a, less what the full dose has already:
``(1-a)/a * e^p/N0 * (1 + (1+a)/a * s^2 e^p/N0)``. Not modelled: correlation of overlapping slices,
beam hardening, scatter, helical interpolation, iterative reconstruction.
"""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.lowdose.geometry import FanGeometry, middles
from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.projector import Backprojector, CoarseProjector
from data_prep.settings import LowDoseSettings
from data_prep.volume import AIR_HU

_BATCH, _LANES = 16, 8
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
        self.incident = _incident_photons(settings).to(self.device)

    def low_dose(self, hu: NDArray[np.int16], scan: str, first: int) -> NDArray[np.int16]:
        """Low-dose partners (int16 HU, not below -1024) of neighbouring slices (n, side, side).

        ``first``: index in the scan of the first of them. Each slice has its own seed, so the result does not
        depend on which slices come together.
        """
        batches = [self._low_dose_batch(hu[i : i + _BATCH], scan, first + i) for i in range(0, len(hu), _BATCH)]
        return np.concatenate(batches)

    def _low_dose_batch(self, hu: NDArray[np.int16], scan: str, first: int) -> NDArray[np.int16]:
        """Odd batches are filled up: torch adds the terms of a few columns in another order than those of many."""
        filled = np.pad(hu, ((0, -len(hu) % _LANES), (0, 0), (0, 0)))
        full = torch.from_numpy(filled.astype(np.float32)).to(self.device)
        seeds = [slice_seed(self.settings.seed, scan, first + i) for i in range(len(full))]
        low = self.noise_hu(full, seeds).add_(full).round_().clamp_(AIR_HU, 32767)
        return low[: len(hu)].to(torch.int16).cpu().numpy()

    def noise_hu(self, full_hu: Tensor, seeds: list[int]) -> Tensor:
        """Noise (HU) to add to full-dose slices (HU), both (batch, side, side); one seed a slice."""
        water = self.settings.water_per_mm
        line_integrals = self.project((water * (1 + full_hu / 1000)).clamp_(min=0))
        counts = self.incident * torch.exp(-line_integrals)
        make = self._noise_of_counts if self.settings.domain == "counts" else self._normal_noise
        return self.reconstruct(make(counts, seeds)) * (1000 / water)

    def variance(self, counts: Tensor) -> Tensor:
        """Variance of the log-sinogram noise that turns full dose into the dose fraction.

        ``counts``: photons expected at full dose; at the low dose a detector counts at least one.
        """
        a = self.settings.dose
        inverse_counts = 1 / counts.clamp(min=1 / a)
        electronic = (1 + a) / a * self.settings.electronic_sd**2 * inverse_counts
        return (1 - a) / a * inverse_counts * (1 + electronic)

    def _normal_noise(self, coarse_counts: Tensor, seeds: list[int]) -> Tensor:
        """Normal noise in the log sinogram; drawn on the CPU so that every device gets the same."""
        scanner = self.settings.geometry
        drawn = torch.empty(len(seeds), scanner.views, scanner.channels)
        for turn, seed in zip(drawn, seeds, strict=True):
            turn.normal_(generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.device).mul_(self.project.interpolate(self.variance(coarse_counts).sqrt()))

    def _noise_of_counts(self, coarse_counts: Tensor, seeds: list[int]) -> Tensor:
        """Noise ln(a N / y) from counts y = Binomial(N, a) + electronic noise, N as in the full-dose scan.

        As in a real scan its mean is not zero at few counts: half its variance, for the logarithm is
        concave, and less, down to below zero, where y often falls below the one count it is held at.
        """
        logarithms = self.project.interpolate(coarse_counts.clamp(min=1 / self.settings.dose).log()).cpu()
        turns = [self._turn_of_counts(turn, seed) for turn, seed in zip(logarithms, seeds, strict=True)]
        return torch.stack(turns).to(self.device)

    def _turn_of_counts(self, logarithms: Tensor, seed: int) -> Tensor:
        a, generator = self.settings.dose, np.random.default_rng(seed)
        full = np.rint(np.exp(logarithms.numpy().astype(np.float64)))
        electronic = generator.normal(0, self.settings.electronic_sd * math.sqrt(1 - a**2), full.shape)
        low = generator.binomial(full.astype(np.int64), a) + electronic
        return torch.from_numpy(np.log(a * full / np.maximum(low, 1)).astype(np.float32))


def _incident_photons(settings: LowDoseSettings) -> Tensor:
    """Photons without an object, (coarse views, coarse channels): photons x tube current x bowtie."""
    scanner = settings.geometry
    views = middles(scanner.views, CoarseProjector.VIEW_STEP).numpy() / scanner.views
    channels = middles(scanner.channels, CoarseProjector.CHANNEL_STEP).numpy() / (scanner.channels - 1)
    current, bowtie = np.array(settings.tube_current or (1.0,)), np.array(settings.bowtie or (1.0,))
    over_views = np.interp(views, np.arange(len(current)) / len(current), current, period=1)
    over_channels = np.interp(channels, np.linspace(0, 1, len(bowtie)), bowtie)
    return torch.from_numpy(settings.photons * over_views[:, None] * over_channels).float()


def slice_seed(seed: int, scan: str, index: int) -> int:
    """Seed of one slice: depends on nothing but the three."""
    name = f"{seed}/{scan}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
