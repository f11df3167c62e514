"""Low dose from full dose: noise is drawn in the sinogram, reconstructed and added to the image.

``low = full + 1000 / water * FBP(n)``. The anatomy is not reconstructed again, so both images stay aligned to the
voxel. The variance of n in the log sinogram follows from var(ln y) = 1/N + s^2/N^2 (N counts, s electronic noise) at
the dose fraction a, minus the variance that the full dose has already:
``(1-a)/a * e^p/N0 * (1 + (1+a)/a * s^2 e^p/N0)``. How much noise, of which grain, and how alike in neighbouring slices
is a :class:`NoiseModel`, mostly that of the scan itself (:mod:`data_prep.lowdose.matching`). Not modelled: beam
hardening, scatter, noise that iterative reconstruction takes from edges and leaves in plain tissue.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.lowdose.geometry import Fan, FanGeometry, middles
from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.model import SPARED_FROM, NoiseModel, named_model
from data_prep.lowdose.padding import padding
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP, Backprojector, CoarseProjector
from data_prep.settings import LowDoseSettings
from data_prep.volume import AIR_HU

_BATCH, _LANES = 16, 8
_DENSEST_HU = 3071  # where 12 bits end
Reconstruction = Backprojector | GriddedBackprojector
BACKPROJECTORS: dict[str, type[Backprojector] | type[GriddedBackprojector]] = {
    "exact": Backprojector,
    "gridded": GriddedBackprojector,
}


class LowDoseSimulator:
    """Adds low-dose noise to slices of one scan, of ``side`` pixels of ``pixel`` mm.

    ``model``: level, grain and likeness of slices of the noise; without it those that the settings name.
    """

    def __init__(
        self, settings: LowDoseSettings, side: int, pixel: float, device: str = "cpu", model: NoiseModel | None = None
    ) -> None:
        self.settings, self.device = settings, torch.device(device)
        self.model = model or named_model(settings)
        self.geometry = FanGeometry(self.model.scanner, side, pixel)
        self.project = CoarseProjector(self.geometry, self.device)
        self.reconstruct = BACKPROJECTORS[settings.backprojection](self.geometry, self.model.apodisation, self.device)
        self.incident = _incident_photons(settings, self.model).to(self.device)

    def low_dose(
        self, hu: NDArray[np.int16], scan: str, first: int, draw: str = "", *, single: bool = False
    ) -> NDArray[np.int16]:
        """Return the low dose (int16 HU, not below -1024) of neighbouring slices (n, side, side).

        ``first``: index of their first slice in the scan. Each slice has its own seed, so the same slice always
        gets the same noise in the same ``draw``, whichever slices come with it. Padding comes out as it is.
        ``single``: each slice by itself, in a fifth of the time of a batch, which can round the last bit otherwise.
        """
        count, lanes = (1, 1) if single else (_BATCH, _LANES)
        starts = range(0, len(hu), count)
        return np.concatenate([self._low_dose_batch(hu[i : i + count], scan, first + i, draw, lanes) for i in starts])

    def _low_dose_batch(self, hu: NDArray[np.int16], scan: str, first: int, draw: str, lanes: int) -> NDArray[np.int16]:
        """Fill the batch to a multiple of ``lanes``: torch sums in another order where columns are few."""
        filled = np.pad(hu, ((0, -len(hu) % lanes), (0, 0), (0, 0)))
        full = torch.from_numpy(filled.astype(np.float32)).to(self.device)
        noise = self.noise_hu(full, self.seeds(scan, range(first, first + len(full)), draw))
        noise *= self.model.gains(range(first, first + len(full))).to(self.device)[:, None, None]
        low = noise.add_(full).round_().clamp_(AIR_HU, 32767)[: len(hu)].to(torch.int16).cpu().numpy()
        return np.where(padding(hu), hu, low)

    def seeds(self, scan: str, slices: Sequence[int], draw: str = "") -> list[int]:
        """Return the seeds of neighbouring slices, and of those behind that share noise with them."""
        stop = slices[-1] + len(self.model.z_filter)
        return [slice_seed(self.settings.seed, scan, index, draw) for index in range(slices[0], stop)]

    def noise_hu(self, full_hu: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the noise (HU) to add to full-dose slices (HU), both (batch, side, side).

        ``seeds``: one for each slice, and for those behind the last that share noise with it.
        """
        draw = self._noise_of_counts if self.settings.domain == "counts" else self._normal_noise
        return self.reconstruct(draw(self.counts(full_hu), seeds)) * (1000 / self.settings.water_per_mm)

    def counts(self, full_hu: Tensor) -> Tensor:
        """Return the photons expected at full dose in coarse views and channels, from slices (batch, side, side)."""
        return self.counts_behind(self.line_integrals(full_hu))

    def counts_behind(self, line_integrals: Tensor) -> Tensor:
        """Return the photons expected at full dose behind these line integrals, of the same shape."""
        spared = self.model.sparing * (line_integrals - SPARED_FROM).clamp_(min=0)
        return self.incident * torch.exp(spared - line_integrals)

    def line_integrals(self, full_hu: Tensor) -> Tensor:
        """Return line integrals of slices (batch, side, side), (batch, coarse views, coarse channels).

        Metal counts as in a scan whose HU are stored in 12 bits, however dense it is.
        """
        hu = full_hu.clamp(max=_DENSEST_HU)
        return self.project((self.settings.water_per_mm * (1 + hu / 1000)).clamp_(min=0))

    def full_dose_variance(self, counts: Tensor) -> Tensor:
        """Return the variance of the log sinogram's noise at full dose, from expected photons."""
        inverse_counts = 1 / counts.clamp(min=self._least_counts)
        return inverse_counts * (1 + self.settings.electronic_sd**2 * inverse_counts)

    def variance(self, counts: Tensor) -> Tensor:
        """Return the variance of the noise that turns the log sinogram of the full dose into that of the low dose.

        ``counts``: photons expected at full dose.
        """
        a = self.settings.dose
        inverse_counts = 1 / counts.clamp(min=self._least_counts / a)
        electronic = (1 + a) / a * self.settings.electronic_sd**2 * inverse_counts
        return (1 - a) / a * inverse_counts * (1 + electronic)

    @property
    def _least_counts(self) -> float:
        """Counts N whose noise is as large as they are, N^2 = N + s^2.

        Of fewer the logarithm varies no more, for a detector counts at least one, while 1/N + s^2/N^2 grows.
        """
        return (1 + math.sqrt(1 + 4 * self.settings.electronic_sd**2)) / 2

    def _normal_noise(self, counts: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return normal noise in the log sinogram; drawn on the CPU, so that it is the same on every device."""
        taps = self.model.z_filter
        draws = torch.empty(len(seeds), *self.reconstruct.shape)
        self._map(_fill_with_normal, draws, seeds)
        noise = torch.zeros(len(counts), *self.reconstruct.shape) if len(taps) > 1 else draws
        for index, turn in enumerate(noise if len(taps) > 1 else ()):
            for tap, draw in zip(taps, draws[index : index + len(taps)], strict=True):
                turn.add_(draw, alpha=tap)
        return noise.to(self.device).mul_(self.reconstruct.deviation(self.variance(counts)))

    def _noise_of_counts(self, counts: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return noise ln(a N / y) from counts y = Binomial(N, a) + electronic noise, N as in the full-dose scan.

        As in a real scan, its mean is not zero at few counts. It is half the variance, because the logarithm is
        concave. It is less, even below zero, where y often falls below one count and is set to one.
        """
        counts = self.reconstruct.deviation(1 / counts.clamp(min=1 / self.settings.dose)).pow(-2).cpu()
        return torch.stack(self._map(self._turn_of_counts, counts, seeds)).to(self.device)

    def _map(self, function: Callable[[Tensor, int], Tensor], turns: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """Call the function with each slice's turn and seed; for a GPU, which would wait, on all cores at once."""
        with ThreadPoolExecutor(1 if self.device.type == "cpu" else len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(function, turns, seeds))

    def _turn_of_counts(self, counts: Tensor, seed: int) -> Tensor:
        a, generator = self.settings.dose, np.random.default_rng(seed)
        full = np.rint(counts.numpy().astype(np.float64))
        electronic = generator.normal(0, self.settings.electronic_sd * math.sqrt(1 - a**2), full.shape)
        low = generator.binomial(full.astype(np.int64), a) + electronic
        return torch.from_numpy(np.log(a * full / np.maximum(low, 1)).astype(np.float32))


def _fill_with_normal(turn: Tensor, seed: int) -> Tensor:
    return turn.normal_(generator=torch.Generator().manual_seed(seed))


def _incident_photons(settings: LowDoseSettings, model: NoiseModel) -> Tensor:
    """Return photons without an object, (coarse views, coarse channels): photons x tube current x bowtie."""
    fan = Fan(model.scanner)
    views = middles(fan.scanner.views, VIEW_STEP).numpy() / fan.scanner.views
    angles = fan.fan_angles(CHANNEL_STEP).numpy()
    current, bowtie = np.array(settings.tube_current or (1.0,)), np.array(settings.bowtie or (1.0,))
    over_views = np.interp(views, np.arange(len(current)) / len(current), current, period=1)
    first, last = Fan(settings.geometry).fan_angles()[[0, -1]].tolist()
    over_channels = np.interp(angles, np.linspace(first, last, len(bowtie)), bowtie)
    return torch.from_numpy(model.photons * over_views[:, None] * over_channels).float()


def slice_seed(seed: int, scan: str, index: int, draw: str = "") -> int:
    """Return the seed of one slice, which depends only on these arguments; ``draw`` tells its several noises apart."""
    name = f"{seed}/{scan}/{index}{draw and f'/{draw}'}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
