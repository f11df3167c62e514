"""Match the simulated noise to a scan's own: its level, its grain, its likeness in neighbouring slices, its field."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from data_prep.errors import ScanError
from data_prep.lowdose.apodisation import Apodisation
from data_prep.lowdose.blocks import NARROW, WIDE, Blocks, Power
from data_prep.lowdose.geometry import Fan
from data_prep.lowdose.model import NoiseModel, named_model, widened, z_filter
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.padding import padding
from data_prep.lowdose.prediction import block_variance, unit_power
from data_prep.lowdose.scan_noise import ROUNDING, BlockNoise, Sites, Slab, find_narrow_sites, pair_power, pair_sectors
from data_prep.settings import LowDoseSettings
from data_prep.volume import Acquisition

_PHOTONS_PER_MAS_MM = 700.0
"""At 120 kV, per channel and view; of a Siemens Sensation 10 and a GE LightSpeed16 (docs/decisions/low-dose.md)."""
_KVP = 120.0
_LEVEL_RINGS = slice(2, 5)  # of the spectrum, in which the filter of most kernels is nearly the ramp
_ROUNDS = 2  # of the filter and of the photons
_TINY = 1e-12
_RAMP = Apodisation((0.0,), (1.0,))
_SECTOR_RINGS = slice(3, 10)  # of wide blocks
_SPARING = (0.0, 0.8)
_MIN_WIDE = 15
_FINE_RINGS = slice(3, 7)  # of narrow blocks
_MIN_NARROW = 8


def match(
    slabs: Sequence[Slab], noise: BlockNoise | None, settings: LowDoseSettings, pixel: float, acquisition: Acquisition
) -> NoiseModel:
    """Find the noise model of a scan from some of its slices and the noise that was measured in them.

    What the settings leave to a scan whose own noise is not known (None) gets its default.

    Raises:
        ScanError: ``photons: mas``, and the scan does not say its mAs, kV and thickness.
    """
    radius = _field_radius(slabs, pixel)
    scanner = widened(settings.geometry, radius)
    model = replace(named_model(settings), scanner=scanner, is_cut=Fan(scanner).reach < radius)
    if settings.photons == "mas":
        model = replace(model, photons=photons_of(acquisition))
    if noise is None:
        return model
    if settings.z_correlation == "scan":
        model = replace(model, z_filter=z_filter(noise.z_correlation))
    fit = _Fit(slabs, noise, settings, pixel)
    if settings.photons == "scan":
        model = replace(model, sparing=fit.sparing(model))
        model = replace(model, photons=fit.photons(model))
    if settings.window == "scan":
        model = replace(model, apodisation=fit.apodisation(model))
    if settings.photons == "scan":
        slices, gain = fit.gain(model)
        model = replace(model, gain_slices=slices, gain=gain)
    return model


def photons_of(acquisition: Acquisition) -> float:
    """Return photons per channel and view in air: proportional to mAs, to slice thickness and to the square of kV.

    Raises:
        ScanError: the scan does not say one of them.
    """
    mas, kvp, thickness = acquisition.mas or 0.0, acquisition.kvp or 0.0, acquisition.thickness or 0.0
    for name, factor in (("mAs", mas), ("kV", kvp), ("slice thickness", thickness)):
        if not factor:
            raise ScanError(f"it does not say its {name}, which photons: mas needs; set photons to scan or a number")
    return _PHOTONS_PER_MAS_MM * mas * thickness * (kvp / _KVP) ** 2


def _field_radius(slabs: Sequence[Slab], pixel: float) -> float:
    """Return the distance (mm) of the outermost pixel with a measurement from the centre of the image."""
    side = slabs[0].hu.shape[1]
    seen = np.any([~padding(slab.hu).all(0) for slab in slabs], axis=0)
    axis = (np.arange(side) - (side - 1) / 2) * pixel
    return float(np.hypot(axis[:, None], axis)[seen].max(initial=0.0))


class _Fit:
    """Fits parts of the noise model to the noise of a scan's blocks."""

    def __init__(self, slabs: Sequence[Slab], noise: BlockNoise, settings: LowDoseSettings, pixel: float) -> None:
        self.slabs, self.noise, self.settings, self.pixel = slabs, noise, settings, pixel
        self.middles = np.array([slab.first + (len(slab.hu) - 1) / 2 for slab in slabs])
        self._line_integrals: list[Tensor] = []

    def sparing(self, model: NoiseModel) -> float:
        """Return the sparing for which the noise predicted of the full dose has the scan's power by slab and direction.

        Noise of dense directions, such as from shoulder to shoulder, is the more, the less they are spared.
        """
        sites = self.noise.sites
        unit = _sectors(self._unit(replace(model, apodisation=_RAMP), WIDE))
        slabs = [number for number in range(len(self.slabs)) if (sites.slab == number).sum() >= _MIN_WIDE]
        if not slabs:
            return model.sparing
        measured = np.stack([_sectors(pair_sectors(self.slabs, sites, number)) for number in slabs])

        def mismatch(sparing: float) -> float:
            simulator = self._simulator(replace(model, sparing=sparing))
            variances = self._variances(sites, simulator, simulator.full_dose_variance)
            predicted = np.stack([variances[sites.slab == number].mean(0) * unit for number in slabs])
            return float(np.cov(np.log(measured / predicted).ravel(), aweights=predicted.ravel()))

        return float(minimize_scalar(mismatch, bounds=_SPARING, method="bounded", options={"xatol": 0.02}).x)

    def photons(self, model: NoiseModel) -> float:
        """Return the photons for which the noise predicted of the full dose has the scan's power at low frequencies."""
        unit = self._unit(replace(model, apodisation=_RAMP), WIDE)
        for _ in range(_ROUNDS):
            simulator = self._simulator(model)
            predicted = self._variances(self.noise.sites, simulator, simulator.full_dose_variance).mean(0) @ unit.T
            factor = _level(predicted) / _level(self.noise.power.mean(0))
            model = replace(model, photons=model.photons * factor)
        return model.photons

    def apodisation(self, model: NoiseModel) -> Apodisation:
        """Return the factor on the ramp for which the added noise has the scan's spectrum."""
        simulator = self._simulator(model)
        variances = self._variances(self.noise.sites, simulator, simulator.variance).mean(0)
        measured, factor = np.maximum(self.noise.power.mean(0) - ROUNDING, 0), np.ones(len(WIDE.ring_bins))
        for _ in range(_ROUNDS + 1):
            predicted = variances @ self._unit(replace(model, apodisation=self._tabulated(factor)), WIDE).T
            factor *= np.sqrt(measured / np.maximum(predicted, _TINY))
            factor /= factor[_LEVEL_RINGS].mean()
        return self._tabulated(factor)

    def gain(self, model: NoiseModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return middle slices of the slabs, and the factors on the noise that give it the scan's level there.

        The tube current may follow the body, and filters of the scanner spare rays of few photons.
        """
        simulator, a = self._simulator(model), self.settings.dose
        narrow, wide = find_narrow_sites(self.slabs, self.noise.sites.lag), self.noise.sites
        predicted = self._variances(narrow, simulator, simulator.variance) @ self._unit(model, NARROW).T
        ratio = _fine(pair_power(self.slabs, narrow, -1)) / _fine(predicted)  # but for a factor, as what follows scales
        measured = [number for number in range(len(self.slabs)) if (narrow.slab == number).sum() >= _MIN_NARROW]
        gain = np.array([math.sqrt(np.median(ratio[narrow.slab == number])) for number in measured])
        slices = self.middles[measured]
        if not measured:  # one factor for the whole scan
            slices, gain = self.middles[:1], np.ones(1)
        predicted = self._variances(wide, simulator, simulator.variance) @ self._unit(model, WIDE).T
        factors = np.interp(self.middles[wide.slab], slices, gain)
        added = (WIDE.variance(predicted) * factors**2).sum()
        gain *= math.sqrt((1 - a) / a * WIDE.variance(self.noise.power).sum() / added)
        return tuple(slices.tolist()), tuple(gain.tolist())

    def _tabulated(self, factor: NDArray[np.float64]) -> Apodisation:
        """Return the apodisation with these factors at the rings; below the lowest ring of the level it is constant.

        It ends with the last ring, for a scan may have finer pixels than those in which its noise was measured.
        """
        rings = np.arange(_LEVEL_RINGS.start, len(WIDE.ring_bins))
        frequency = rings / (WIDE.side * self.pixel)
        return Apodisation((*frequency, math.nextafter(frequency[-1], math.inf)), (*factor[rings], 0.0))

    def _simulator(self, model: NoiseModel) -> LowDoseSimulator:
        return LowDoseSimulator(self.settings, self.slabs[0].hu.shape[1], self.pixel, model=model)

    def _unit(self, model: NoiseModel, blocks: Blocks) -> Power:
        simulator = self._simulator(model)
        unit = unit_power(simulator.reconstruct, simulator.geometry, blocks)
        return unit * (1000 / self.settings.water_per_mm) ** 2

    def _variances(self, sites: Sites, simulator: LowDoseSimulator, law: Callable[[Tensor], Tensor]) -> Power:
        """Predict the variance of the rays through blocks by direction, (blocks, DIRECTIONS).

        ``law``: variance of the noise in the sinogram from expected counts.
        """
        if not self._line_integrals:
            self._line_integrals = [simulator.line_integrals(torch.from_numpy(slab.hu).float()) for slab in self.slabs]
        axis, means = sites.blocks.centres(self.slabs[0].hu.shape[1]), []
        for number in np.unique(sites.slab):
            chosen = sites.slab == number
            counts = simulator.counts_behind(self._line_integrals[number])
            local = block_variance(simulator.geometry, law(counts), axis[sites.column[chosen]], axis[sites.row[chosen]])
            lower, block = sites.lower[chosen], np.arange(chosen.sum())
            means.append((local[lower, block] + local[lower + sites.lag, block]) / 2)
        return np.concatenate(means)


def _sectors(power: Power) -> Power:
    """Return the power of wide blocks by direction, at medium frequencies."""
    return np.asarray((power * WIDE.ring_bins[:, None])[_SECTOR_RINGS].sum(0))


def _level(power: Power) -> float:
    return float((power * WIDE.ring_bins)[_LEVEL_RINGS].sum())


def _fine(power: Power) -> Power:
    """Return the power of narrow blocks at frequencies at which tissue has little structure."""
    return np.asarray((power * NARROW.ring_bins)[:, _FINE_RINGS].sum(1))
