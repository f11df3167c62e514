"""A scan's noise is measured and followed: synthetic scans of known level, grain, photons and correlation of slices."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch

from data_prep.lowdose.blocks import WIDE
from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.model import z_filter
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.scan_noise import (
    BlockNoise,
    ScanNoise,
    Sites,
    Slab,
    block_noise,
    coarsen,
    measure_noise,
    summary,
)
from data_prep.settings import GeometrySettings, LowDoseSettings
from tests.data_prep.noisy_scans import Array, LowDose, abdomen, bell, coloured, low_dose_of, noisy_slabs

SIDE, PIXEL, SD, DOSE = 256, 1.4, 12.0, 0.1
KNOWN = {"fine": (0.2, (0.5, 1.0, 0.5)), "coarse": (0.1, (0.8, 1.0))}
"""By name: frequency of most power (cycles/mm), and the filter along z."""


@pytest.mark.parametrize("correlation", [(), (0.5,), (0.3,), (-0.3,), (0.6, 0.2), (0.66, 0.16), (0.8, 0.6, 0.4, 0.2)])
def test_the_filter_along_z_gives_the_correlation_of_slices(correlation: tuple[float, ...]) -> None:
    weights = z_filter(correlation)
    autocorrelation = np.correlate(weights, weights, "full")[len(weights) - 1 :]
    np.testing.assert_allclose(autocorrelation, [1, *correlation], atol=0.002)


@pytest.mark.parametrize(
    ("correlation", "error"),
    [
        ((0.9, 0.8, 0.7, 0.6), 0.01),  # goes on over as many slices again
        ((0.86, 0.72, 0.58, 0.44), 0.01),
        ((0.95, 0.9, 0.85, 0.8), 0.01),
        ((0.91, 0.7, 0.46, 0.23), 0.03),
        ((0.7, 0.2), 0.01),
        ((0.9, 0.2), 0.2),
        ((0.9,), 0.3),
        ((-0.8,), 0.3),
    ],
)
def test_a_correlation_that_no_noise_has_is_replaced_by_a_similar_one(
    correlation: tuple[float, ...], error: float
) -> None:
    weights = z_filter(correlation)
    autocorrelation = np.correlate(weights, weights, "full")[len(weights) - 1 :]
    assert autocorrelation[0] == pytest.approx(1)
    np.testing.assert_allclose(autocorrelation[1 : len(correlation) + 1], correlation, atol=error)


def test_noise_of_simulated_slices_has_the_correlation() -> None:
    coarse = GeometrySettings(views=288, channels=368, channel_arc_mm=2.5716)
    settings = LowDoseSettings(geometry=coarse, photons=1e5, window="hann", z_correlation=(0.6, 0.2))
    simulator = LowDoseSimulator(settings, 128, 2.8)
    water = torch.zeros(64, 128, 128)
    noise = simulator.noise_hu(water, simulator.seeds("scan", range(64)))[:, 32:96, 32:96].double().numpy()
    variance = (noise**2).mean()
    for lag, expected in ((1, 0.6), (2, 0.2), (3, 0)):
        assert (noise[lag:] * noise[:-lag]).mean() / variance == pytest.approx(expected, abs=0.02)


@cache
def of_known_grain(name: str) -> LowDose:
    peak, taps = KNOWN[name]
    slabs = noisy_slabs(abdomen(SIDE, PIXEL, (165, 120)), coloured(SIDE, PIXEL, bell(peak), taps), SD, 6)
    return low_dose_of(slabs, PIXEL, LowDoseSettings(doses=(DOSE,)))


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dose", ["full", "added"])
def test_noise_of_known_level_grain_and_correlation_is_measured_and_added(name: str, dose: str) -> None:
    peak, taps = KNOWN[name]
    full, added = of_known_grain(name).record.noise
    noise, sd = (full, SD) if dose == "full" else (added, SD * math.sqrt((1 - DOSE) / DOSE))
    assert noise
    check_noise(noise, sd, bell(peak), taps)
    assert 0.9 < of_known_grain(name).ratio < 1.1


@pytest.mark.slow
def test_rounding_does_not_hide_the_correlation_of_smooth_noise() -> None:
    """Of pixels of 0.36 mm and noise around 0.1 cycles/mm: at higher frequencies whole HU have five times its power."""
    slabs = noisy_slabs(np.full((256, 256), 50.0), coloured(256, 0.36, bell(0.1), (1, 1)), SD)
    noise = block_noise(slabs)
    assert noise is not None
    assert noise.z_correlation == pytest.approx((0.5,), abs=0.05)


@pytest.mark.parametrize(("pixel", "peak", "step"), [(0.36, 0.2, 2), (0.25, 0.1, 4)])
def test_smooth_noise_in_small_pixels_is_added_at_its_level_and_grain(pixel: float, peak: float, step: int) -> None:
    """Noise of which a block of 24 pixels has no 3 cycles: of its lowest frequencies such a block shows less than half.

    In the middle of the image, where the factors of the slabs hold, and at frequencies around its peak.
    """
    side = 192
    slabs = noisy_slabs(np.full((side, side), 50.0), coloured(side, pixel, bell(peak), (1, 1)), SD, 4)
    low_dose = low_dose_of(slabs, pixel, LowDoseSettings(doses=(DOSE,), geometry=GeometrySettings(views=288)))
    full, added = low_dose.record.noise
    assert low_dose.record.step == step
    assert full
    assert added
    assert full.sd == pytest.approx(SD, rel=0.05)
    assert added.z_correlation[0] == pytest.approx(0.5, abs=0.05)
    volumes = np.concatenate([slab.hu - 50.0 for slab in slabs]), np.concatenate(low_dose.added)
    levels = [volume[:, 24:-24, 24:-24].std() for volume in volumes]
    assert levels[1] / levels[0] == pytest.approx(3, rel=0.06)
    frequency = np.fft.fftfreq(side, pixel)
    near_peak = abs(np.hypot(frequency[:, None], frequency) / peak - 1) < 0.5
    powers = [(np.abs(np.fft.fft2(volume - volume.mean())) ** 2).mean(0)[near_peak].sum() for volume in volumes]
    assert powers[1] / powers[0] == pytest.approx(9, rel=0.15)


@pytest.mark.parametrize(("side", "step"), [(64, 1), (64, 2), (63, 3), (65, 3), (64, 4)])
def test_coarser_pixels_hold_waves_as_they_are(side: int, step: int) -> None:
    """Below the highest frequency of coarser pixels a wave keeps its height, and its place."""
    coarse = side // step
    first = (side - coarse * step) // 2
    cycles = 5 / (coarse * step), coarse // 3 / (coarse * step)  # of pixels along rows and columns

    def wave(first: float, spacing: int, count: int) -> Array:
        pixel = first + spacing * np.arange(count, dtype=np.float64)
        across, down = (np.sin(2 * np.pi * frequency * pixel + 0.3) for frequency in cycles)
        return np.asarray(1000 * down[:, None] * across)

    hu = wave(0, 1, side).round().astype(np.int16)
    expected = wave(first + (step - 1) / 2, step, coarse)
    np.testing.assert_allclose(coarsen(hu[None], step)[0].astype(np.float64), expected, atol=1.2)


def check_noise(noise: ScanNoise, sd: float, spectrum: Callable[[Array], Array], taps: Sequence[float]) -> None:
    frequency, power = plane_power(spectrum)
    rings = ring_power(power) * sd**2
    correlation = np.correlate(taps, taps, "full")[len(taps) :] / np.dot(taps, taps)
    assert noise.sd == pytest.approx(sd, rel=0.05)
    assert noise.centroid == pytest.approx((frequency * power).sum() / power.sum(), rel=0.03)
    np.testing.assert_allclose(noise.z_correlation, correlation, atol=0.05)
    has_power = rings > 0.03 * rings.max()
    has_power[0] = False  # the mean of a block is anatomy
    np.testing.assert_allclose((np.array(noise.spectrum) / PIXEL**2 / rings)[has_power], 1, atol=0.15)


SMALL_SIDE, SMALL_PIXEL, PHOTONS, WATER = 128, 1.0, 3e5, 0.022
SCANNER = GeometrySettings(views=576)


@cache
def scanned(backprojection: str, window: str) -> tuple[list[Slab], LowDose]:
    """Slabs of a full-dose scan of known photons and window, without correlation of slices, and their low dose."""
    scan = LowDoseSettings.model_validate(
        {"photons": PHOTONS, "window": window, "cutoff": 0.7, "backprojection": backprojection, "geometry": SCANNER,
         "water_per_mm": WATER}
    )  # fmt: skip
    simulator = LowDoseSimulator(scan, SMALL_SIDE, SMALL_PIXEL)
    plane = abdomen(SMALL_SIDE, SMALL_PIXEL, (58, 48))
    counts = simulator.counts(torch.from_numpy(plane).float()[None])
    deviation = simulator.reconstruct.deviation(simulator.full_dose_variance(counts))

    def noise(slices: int, seed: int) -> Array:
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(slices, *simulator.reconstruct.shape, generator=generator)
        return simulator.reconstruct(draws * deviation).double().numpy() * 1000 / scan.water_per_mm

    slabs = noisy_slabs(plane, noise, 1.0, 12)
    return slabs, low_dose_of(slabs, SMALL_PIXEL, LowDoseSettings(doses=(DOSE,), geometry=SCANNER, water_per_mm=WATER))


@pytest.mark.parametrize("window", ["hann", "ramp"])
def test_a_scan_of_the_exact_fan_gets_the_noise_of_its_lower_dose(window: str) -> None:
    """In the middle of the body, by the differences of slices: 3 times the full dose's noise, in its spectrum."""
    slabs, low_dose = scanned("exact", window)
    full, added = (
        np.concatenate([np.diff(hu, axis=0)[:, 40:88, 40:88] for hu in slices])
        for slices in ([slab.hu.astype(float) for slab in slabs], low_dose.added)
    )
    assert added.std() / full.std() == pytest.approx(3, rel=0.05)
    assert low_dose.ratio == pytest.approx(1, abs=0.1)
    powers = [patch_power(noise) for noise in (full, added)]
    has_power = powers[0] > 0.03 * powers[0].max()
    np.testing.assert_allclose((powers[1] / powers[0] / 9)[has_power], 1, atol=0.15)


def patch_power(patches: Array) -> Array:
    """Power in bands of three rings, of patches under a Hann window; without the lowest, in which are few."""
    side = patches.shape[1]
    hann, frequency = np.hanning(side), np.fft.fftfreq(side, 1 / side)
    band = (np.hypot(frequency[:, None], frequency) / 3).astype(int).ravel()
    power = (np.abs(np.fft.fft2(patches * np.outer(hann, hann))) ** 2).mean(0).ravel()
    return (np.bincount(band, power) / np.bincount(band))[1 : side // 6]


@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_the_photons_of_a_scan_are_recovered(window: str) -> None:
    """The level's frequencies count as if they were the ramp's; by so much a window that sinks there adds photons."""
    low_dose = scanned("gridded", window)[1]
    ring = np.array([2, 3, 4])
    frequency = ring / (WIDE.side * SMALL_PIXEL)
    limit = 0.7 * FanGeometry(SCANNER, SMALL_SIDE, SMALL_PIXEL).nyquist
    factor = (1 + np.cos(math.pi * frequency / limit)) / 2 if window == "hann" else np.ones(3)
    lost = (frequency * ring * factor**2).sum() / (frequency * ring).sum()
    assert low_dose.model.photons * lost == pytest.approx(PHOTONS, rel=0.1)


def plane_power(spectrum: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Frequencies of the plane (cycles/mm), and the power there, whose mean is 1."""
    axis = np.fft.fftfreq(SIDE, PIXEL)
    frequency = np.hypot(axis[:, None], axis)
    power = spectrum(frequency)
    return frequency, power / power.mean()


def ring_power(power: Array) -> Array:
    """Mean power in rings of a block from that of the plane: without a parabola, under a Hann window."""
    side = WIDE.side
    y, x = (axis.ravel() for axis in np.mgrid[:side, :side])
    covariance = np.fft.ifft2(power).real[y[:, None] - y, x[:, None] - x]
    trends = np.linalg.qr(np.stack([x**0, x, y, x * x, x * y, y * y], 1) * 1.0)[0]
    even = np.eye(side**2) - trends @ trends.T
    hann = np.hanning(side + 2)[1:-1]
    window = np.outer(hann, hann).ravel() / (hann**2).mean()
    tapered = (window[:, None] * (even @ covariance @ even) * window).reshape((side,) * 4)
    spectrum = np.fft.ifft2(np.fft.fft2(tapered, axes=(0, 1)), axes=(2, 3))  # its diagonal is the power
    frequency = np.fft.fftfreq(side, 1 / side)
    ring = np.hypot(frequency[:, None], frequency).round().astype(int).ravel()
    return np.bincount(ring, spectrum.reshape(side**2, -1).diagonal().real) / np.bincount(ring)


def test_the_interval_of_the_level_is_that_of_the_means_of_slabs() -> None:
    """95 % of Student's t: 2.262 standard errors of ten means. That of an SD is half of its variance's, relatively."""
    means = 100 + np.array([-3, -2, -2, -1, 0, 0, 1, 2, 2, 3.0])
    slab, zeros = np.repeat(np.arange(10), 20), np.zeros(200, np.int64)
    power = np.repeat(means, 20)[:, None] * np.ones(len(WIDE.ring_bins))
    noise = summary(BlockNoise(Sites(WIDE, 1, slab, zeros, zeros, zeros), power, 0.0, ()), PIXEL)
    error = means.std(ddof=1) / math.sqrt(10) / 100 / 2
    assert noise.sd == pytest.approx(10)
    assert np.log(noise.interval) == pytest.approx(math.log(10) + 2.262 * error * np.array([-1, 1]), abs=1e-4)
    assert noise.slab_range == pytest.approx((math.sqrt(97), math.sqrt(103)))


def test_what_one_of_two_slices_alone_shows_is_no_noise() -> None:
    """Thin vessels across the slices, which leave the means of a block as they are."""
    slabs = noisy_slabs(np.full((128, 128), 50.0), coloured(128, PIXEL, np.ones_like), SD, 6)
    for slab in slabs:
        for row, column in np.ndindex(4, 4):
            y, x = 32 * row + 13, 32 * column + 13
            slab.hu[2, y : y + 4, x] += 200
            slab.hu[2, y : y + 4, x + 1] -= 200
    noise = measure_noise(slabs, PIXEL)
    assert noise
    assert noise.sd == pytest.approx(SD, rel=0.04)
