import math

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.lowdose.calibrate import calibrate, noise_level
from data_prep.lowdose.model import named_model
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from data_prep.volume import CTVolume

SIDE, PIXEL = 256, 1.4


def body(sd: float, slices: int = 4) -> NDArray[np.int16]:
    """A disc of tissue (40 HU) with two lungs and ribs in air, with white noise."""
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    x, y = axis[None], axis[:, None]
    plane = np.where(x**2 + y**2 < 160**2, 40.0, -1000.0)
    for side in (-1, 1):
        plane[(x - 60 * side) ** 2 + (y + 60) ** 2 < 45**2] = -850
        plane[(x - 140 * side) ** 2 + y**2 < 8**2] = 700
    noise = np.random.default_rng(0).normal(0, sd, (slices, SIDE, SIDE))
    return np.clip(plane + noise, -1024, 3071).round().astype(np.int16)


@pytest.mark.parametrize("sd", [3, 10, 30, 90])
def test_noise_level_of_white_noise_is_its_standard_deviation(sd: float) -> None:
    rounding = 1 / 12
    assert noise_level(body(sd)) == pytest.approx(math.sqrt(sd**2 + rounding), rel=0.03)


def test_edges_do_not_count() -> None:
    """The standard deviation over all of the tissue's range is far higher than the noise."""
    hu = body(10)
    assert hu[(hu > -500) & (hu < 1000)].std() > 50
    assert noise_level(hu) == pytest.approx(10, rel=0.03)


def test_fat_and_areas_without_any_noise_do_not_count() -> None:
    """Twice as many windows of fat, with another noise, and a corner that is filled with 40 HU."""
    hu = np.full((2, 90, 180), -100.0)
    hu[:, :, 120:] = 50
    hu += np.random.default_rng(0).normal(0, 1, hu.shape) * np.where(hu == 50, 10, 4)
    hu[:, :30, 150:] = 40
    assert noise_level(hu.round().astype(np.int16)) == pytest.approx(10, rel=0.04)


@pytest.mark.parametrize(("columns", "is_enough"), [(36, True), (33, False)])
def test_a_noise_level_takes_a_hundred_windows(columns: int, is_enough: bool) -> None:
    """A window is 9 x 9 pixels, and its neighbour 3 pixels away: of 36 x 36 pixels there are 10 x 10."""
    noise = np.random.default_rng(0).normal(50, 5, (1, 36, columns)).round().astype(np.int16)
    assert math.isnan(noise_level(noise)) != is_enough


@pytest.mark.parametrize("value", [-1024, -850, 1000])
def test_without_soft_tissue_there_is_no_noise_level(value: int) -> None:
    noise = np.random.default_rng(0).normal(value, 5, (2, 64, 64))
    assert math.isnan(noise_level(noise.astype(np.int16)))


@pytest.mark.slow
def test_noise_level_of_the_real_sample_is_plausible(sample: CTVolume) -> None:
    """A chest CT of 2.5 mm has 10 to 20 HU."""
    assert 10 < noise_level(sample.hu) < 20


@pytest.mark.slow
def test_both_backprojections_give_the_samples_tissue_the_same_noise(sample: CTVolume) -> None:
    """The default photons against 1.8e5 of the exact one, which reproduce real quarter-dose scans."""
    exact = LowDoseSettings(backprojection="exact", photons=1.8e5)
    levels = [
        noise_level(LowDoseSimulator(settings, 512, sample.spacing[2]).low_dose(sample.hu[56:64], "x", 56))
        for settings in (LowDoseSettings(), exact)
    ]
    assert levels[0] / levels[1] == pytest.approx(1, rel=0.03)


def test_the_calibrated_photons_give_the_wanted_noise() -> None:
    settings, hu = LowDoseSettings(doses=(0.25,)), body(5)
    photons = calibrate(hu, PIXEL, settings, 20.0)
    simulator = LowDoseSimulator(settings.model_copy(update={"photons": photons}), SIDE, PIXEL)
    assert noise_level(simulator.low_dose(hu, "any", 0)) == pytest.approx(20, rel=0.03)


@pytest.mark.slow
def test_more_wanted_noise_takes_fewer_photons_by_its_square() -> None:
    """Without noise of its own and of the electronics, the variance goes with 1 / photons."""
    settings, hu = LowDoseSettings(doses=(0.25,), electronic_sd=0), body(0.5)
    photons = [calibrate(hu, PIXEL, settings, sd) for sd in (10.0, 20.0)]
    assert photons[0] / photons[1] == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_photons_are_those_of_the_scans_noise_model() -> None:
    """A model of half the grain's frequencies needs the photons that settings of its window need."""
    sharp, smooth = (LowDoseSettings(photons=1e5, window="hann", cutoff=cutoff) for cutoff in (1.0, 0.5))
    of_model = calibrate(body(5, 2), PIXEL, sharp, 20.0, named_model(smooth))
    assert of_model == pytest.approx(calibrate(body(5, 2), PIXEL, smooth, 20.0), rel=0.001)
    assert of_model < 0.8 * calibrate(body(5, 2), PIXEL, sharp, 20.0)


def test_photons_count_before_the_bowtie() -> None:
    halved = LowDoseSettings(doses=(0.25,), bowtie=(0.5,))
    plain, filtered = (calibrate(body(5), PIXEL, s, 20.0) for s in (LowDoseSettings(doses=(0.25,)), halved))
    assert filtered / plain == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("sd", [3, 5000])
def test_noise_below_the_scans_own_or_beyond_any_is_refused_with_the_range(sd: float) -> None:
    expected = rf"noise of {sd} HU cannot be had .* dose 0.25, only between 1\d\.\d \(their own\) and \d+ HU"
    with pytest.raises(UserError, match=expected):
        calibrate(body(15), PIXEL, LowDoseSettings(), sd)


def test_slices_without_soft_tissue_are_refused() -> None:
    with pytest.raises(UserError, match="no soft tissue"):
        calibrate(np.full((1, SIDE, SIDE), -1024, np.int16), PIXEL, LowDoseSettings(), 20.0)
