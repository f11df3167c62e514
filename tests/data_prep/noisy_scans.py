"""Synthetic scans with noise of known level, grain and correlation of slices, and the low dose that follows them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
from numpy.typing import NDArray

from data_prep.lowdose.matching import match
from data_prep.lowdose.model import NoiseModel
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import SLAB_SLICES, Slab
from data_prep.settings import LowDoseSettings
from data_prep.volume import Acquisition

Array = NDArray[np.float64]
Hu = NDArray[np.int16]
Grain = Callable[[int, int], Array]
"""Noise of variance 1, (slices, side, side), from a number of slices and a seed."""
UNKNOWN = Acquisition()


@dataclass(frozen=True)
class LowDose:
    """A scan's slabs and their low dose; ``added``: the low minus the full dose of each, HU."""

    record: NoiseRecord
    model: NoiseModel
    added: list[Array]

    @property
    def ratio(self) -> float:
        """Added over expected noise."""
        return float(self.record.row()["noise_ratio"])


def low_dose_of(
    slabs: Sequence[Slab], pixel: float, settings: LowDoseSettings, acquisition: Acquisition = UNKNOWN
) -> LowDose:
    """Simulate slabs as a preparation does, without the slices between them."""
    record = NoiseRecord(slabs, pixel, settings.dose)
    model = match(record.slabs, record.own, settings, record.pixel, acquisition)
    simulator = LowDoseSimulator(settings, slabs[0].hu.shape[1], pixel, model=model)
    low: dict[int, Hu] = {}
    for first, hu in _runs(slabs):
        low_hu = simulator.low_dose(hu, "scan", first)
        record.add(first, hu, low_hu)
        low |= {first + number: plane for number, plane in enumerate(low_hu)}
    added = [
        np.stack([low[slab.first + number] for number in range(len(slab.hu))]).astype(np.float64) - slab.hu
        for slab in slabs
    ]
    return LowDose(record, model, added)


def _runs(slabs: Sequence[Slab]) -> Iterator[tuple[int, Hu]]:
    """Yield the index of the first slice, and the slices, of slabs that overlap or touch."""
    planes = {slab.first + number: plane for slab in slabs for number, plane in enumerate(slab.hu)}
    starts = [index for index in sorted(planes) if index - 1 not in planes]
    for start in starts:
        yield start, np.stack([planes[index] for index in takewhile(planes.__contains__, count(start))])


def noisy_slabs(plane: Array, grain: Grain, sd: float, slabs: int = 8) -> list[Slab]:
    """Slabs of a scan that has the same anatomy (side, side) in all slices."""
    volumes = (plane + sd * grain(SLAB_SLICES, number) for number in range(slabs))
    return [Slab(32 * number, np.clip(hu, -1024, 3071).round().astype(np.int16)) for number, hu in enumerate(volumes)]


def coloured(side: int, pixel: float, spectrum: Callable[[Array], Array], taps: Sequence[float] = (1.0,)) -> Grain:
    """White noise, filtered in the plane to a power spectrum (of cycles/mm), and along z with ``taps``."""
    frequency = np.fft.fftfreq(side, pixel)
    power = spectrum(np.hypot(frequency[:, None], frequency))
    response, weights = np.sqrt(power / power.mean()), np.array(taps) / np.linalg.norm(taps)

    def grain(slices: int, seed: int) -> Array:
        white = np.random.default_rng(seed).normal(size=(slices + len(weights) - 1, side, side))
        fields = np.fft.ifft2(np.fft.fft2(white) * response).real
        return np.asarray(sum(weight * fields[lag : lag + slices] for lag, weight in enumerate(weights)))

    return grain


def bell(peak: float) -> Callable[[Array], Array]:
    """Power spectrum f exp(-(f/f0)^2), highest at ``peak`` cycles/mm."""
    return lambda f: f * np.exp(-((f / peak) ** 2) / 2)


def ellipse(side: int, pixel: float, half_axes: tuple[float, float], centre: tuple[float, float] = (0, 0)) -> Array:
    """Distance from the centre in half axes (mm) of an ellipse, (side, side): inside of it, it is below 1."""
    axis = (np.arange(side) - (side - 1) / 2) * pixel
    x, y = (axis[None] - centre[0]) / half_axes[0], (axis[:, None] - centre[1]) / half_axes[1]
    return np.asarray(np.hypot(x, y))


def abdomen(side: int, pixel: float, half_axes: tuple[float, float]) -> Array:
    """Soft tissue with a fatty rim, a spine, two kidneys and vessels, in air, HU."""
    width, height = half_axes

    def organ(x: float, y: float, across: float, down: float) -> NDArray[np.bool_]:
        return ellipse(side, pixel, (across * width, down * height), (x * width, y * height)) < 1

    plane = np.where(organ(0, 0, 1, 1), -90.0, -1000.0)
    plane[organ(0, 0, 0.93, 0.93)] = 50
    plane[organ(0, 0.55, 0.13, 0.18)] = 350
    for x in (-0.5, 0.5):
        plane[organ(x, 0.4, 0.16, 0.2)] = 90
    for x, y in ((-0.1, 0.25), (0.12, 0.28), (-0.35, -0.5), (0.3, -0.1)):
        plane[organ(x, y, 0.04, 0.055)] = 120
    return plane
