import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.noise import LowDoseSimulator, slice_seed
from data_prep.settings import LowDoseSettings
from data_prep.volume import CTVolume
from tests.pairs import simulate

SIDE, PIXEL, SLICES = 128, 2.8, 8
COARSE = {"views": 288, "channels": 368, "channel_arc_mm": 2.5716}  # where nobody looks at the noise's statistics
COUNTS: dict[str, Any] = {"domain": "counts", "z_correlation": (), "backprojection": "exact"}


@cache
def cached_simulator(**settings: Any) -> LowDoseSimulator:
    return LowDoseSimulator(LowDoseSettings.model_validate(settings), SIDE, PIXEL)


def simulator(dose: float, photons: float = 1e6, **settings: Any) -> LowDoseSimulator:
    """Without electronic noise unless it is asked for."""
    return cached_simulator(**{"doses": (dose,), "photons": photons, "electronic_sd": 0.0, **settings})


def noise(simulator: LowDoseSimulator, image: Tensor, batches: int, first: int = 0) -> Tensor:
    """Noise of many scans of one image, (scans, side, side)."""
    slices = image.repeat(SLICES, 1, 1)
    return torch.cat([simulator.noise_hu(slices, seeds(first + SLICES * i)) for i in range(batches)])


def radius() -> Tensor:
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    return (axis[None] ** 2 + axis[:, None] ** 2).sqrt()


def water() -> Tensor:
    """Slices of a 30 cm water disc, HU."""
    return torch.where(radius() < 150, 0.0, -1000.0).repeat(SLICES, 1, 1)


def centre(noise: Tensor) -> Tensor:
    return noise[:, radius() < 100]


def seeds(first: int = 0) -> list[int]:
    return list(range(first, first + SLICES))


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1, 0.05])
def test_variance_adds_up_to_a_scan_at_the_low_dose(dose: float) -> None:
    """Full-dose noise plus added noise is as large as that of a scan with dose x photons."""
    as_scan = simulator(0.5).variance  # (1-a)/a = 1: the variance of a whole scan with these counts
    counts = 1e6 * torch.exp(-torch.linspace(0, 6, 50))
    torch.testing.assert_close(as_scan(counts) + simulator(dose).variance(counts), as_scan(dose * counts))


def test_full_dose_and_added_noise_are_as_large_as_a_direct_low_dose_scan() -> None:
    """In the image: root(full^2 + added^2) within 3 % of a scan that has a tenth of the photons."""
    full = centre(noise(simulator(0.5), water()[:1], 2)).double().std()
    added = centre(noise(simulator(0.1), water()[:1], 2, 100)).double().std()
    direct = centre(noise(simulator(0.5, photons=1e5), water()[:1], 2, 200)).double().std()
    assert float((full**2 + added**2).sqrt() / direct) == pytest.approx(1, rel=0.03)


def test_noise_times_root_dose_is_constant() -> None:
    full = centre(simulator(0.5).noise_hu(water(), seeds())).double()
    total = []
    for dose in (0.5, 0.25, 0.1, 0.05):
        added = centre(simulator(dose).noise_hu(water(), seeds(100))).double()
        total.append(float((full + added).std()) * dose**0.5)
    assert max(total) / min(total) < 1.02


def test_electronic_noise_follows_its_formula() -> None:
    a, sd, counts = 0.1, 5.0, 1e4 * torch.exp(-torch.tensor([0.0, 3.0, 5.0]))
    scan = 1 / (a * counts) + sd**2 / (a * counts) ** 2
    full = 1 / counts + sd**2 / counts**2
    variance = simulator(a, 1e4, electronic_sd=sd).variance(counts)
    torch.testing.assert_close(variance, scan - full, rtol=1e-4, atol=0)


def test_mean_hu_of_water_is_unchanged() -> None:
    added = centre(simulator(0.1).noise_hu(water(), seeds()))
    assert abs(float(added.mean())) < 0.5
    assert float(added.std()) > 5


def spectrum(simulator: LowDoseSimulator, first: int) -> Tensor:
    """Noise power in rings of rising frequency, in the middle of a water disc."""
    realisations = noise(simulator, water()[:1], 16, first)[:, 32:96, 32:96]
    power = torch.fft.fft2(realisations - realisations.mean((1, 2), keepdim=True)).abs().square().mean(0)
    frequency = torch.fft.fftfreq(64)
    ring = ((frequency[None] ** 2 + frequency[:, None] ** 2).sqrt() * 16).long().clamp(max=8)
    return torch.stack([power[ring == r].mean() for r in range(1, 8)])


def test_the_noise_power_spectrum_keeps_its_shape() -> None:
    full = simulator(0.5)
    low = spectrum(simulator(0.1), 0) + spectrum(full, 1000)
    ratio = low * 0.1 / spectrum(full, 2000)
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1


def test_a_lower_cutoff_takes_noise_of_high_frequencies_away() -> None:
    """The image's pixels hold a quarter of the detector's frequencies; half of them stay at a cutoff of an eighth."""
    ratio = spectrum(simulator(0.1, window="ramp", cutoff=0.125), 0) / spectrum(simulator(0.1, window="ramp"), 0)
    torch.testing.assert_close(ratio[:3], torch.ones(3), rtol=0.1, atol=0)
    assert ratio[5:].max() < 0.05


def test_a_quarter_turn_turns_the_statistics() -> None:
    """An ellipse is noisier along its long axis; turned by 90 degrees, so is its noise."""
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    ellipse = torch.where((axis[None] / 160) ** 2 + (axis[:, None] / 80) ** 2 < 1, 0.0, -1000.0)

    def deviations(image: Tensor) -> Tensor:
        blocks = noise(simulator(0.1, photons=1e5), image[None], 8).reshape(-1, 8, 16, 8, 16)
        return blocks.permute(1, 3, 0, 2, 4).reshape(8, 8, -1).std(-1)[2:6, 2:6]

    upright, turned = deviations(ellipse), deviations(torch.rot90(ellipse, 1, (0, 1)))
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (0, 1)), rtol=0.05, atol=0)


def test_half_the_tube_current_is_half_the_photons() -> None:
    halved = simulator(0.1, tube_current=(0.5,)).noise_hu(water(), seeds())
    torch.testing.assert_close(halved, simulator(0.1, photons=5e5).noise_hu(water(), seeds()), rtol=0, atol=0)


def test_the_tube_current_makes_noise_along_the_rays_it_starves() -> None:
    """A tenth of the photons in the views from left and right (90 and 270 degrees): streaks along x, root 10 as high.

    The current rises on either side of these views, so it is somewhat less.
    """
    realisations = noise(simulator(0.1, tube_current=(1, 0.1, 1, 0.1)), water()[:1], 4)[:, 40:88, 40:88]
    rows, columns = (realisations.mean(d).std() for d in (2, 1))
    assert 2.1 < rows / columns < 10**0.5


def test_a_bowtie_makes_the_periphery_noisier() -> None:
    def periphery_to_centre(**settings: Any) -> float:
        realisations = noise(simulator(0.1, **settings), torch.full((1, SIDE, SIDE), -1000.0), 2)
        ring = (radius() > 130) & (radius() < 150)
        return float(realisations[:, ring].std() / realisations[:, radius() < 20].std())

    assert periphery_to_centre(bowtie=(0.1, 1, 0.1)) > 1.2 * periphery_to_centre()


def test_hooks_are_interpolated() -> None:
    """A bowtie runs from the first channel to the last; a tube current comes round to its first value."""
    incident = simulator(0.1, photons=1, bowtie=(0.5, 1.5), tube_current=(1, 3)).incident
    channel = torch.arange(1.5, 736, 4) / 735
    torch.testing.assert_close(incident[0], (0.5 + channel) * (1 + 2 * 3.5 / 576), rtol=1e-5, atol=0)
    torch.testing.assert_close(incident.flip(0)[0], incident[0] * (1 + 2 * 4.5 / 576) / (1 + 2 * 3.5 / 576))


@pytest.mark.parametrize("hook", ["bowtie", "tube_current"])
def test_a_hook_without_photons_is_refused(hook: str) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        LowDoseSettings.model_validate({hook: (1, 0)})


def test_both_domains_agree_at_high_counts() -> None:
    simulators = (
        simulator(0.1, electronic_sd=5, **COUNTS | {"domain": "log"}),
        simulator(0.1, electronic_sd=5, **COUNTS),
    )
    added = [centre(simulator.noise_hu(water(), seeds())) for simulator in simulators]
    assert float(added[1].double().std() / added[0].double().std()) == pytest.approx(1, rel=0.02)
    assert abs(float(added[1].mean())) < 0.5


@pytest.mark.parametrize("dose", [0.1, 0.5])
def test_counts_at_a_dose_vary_as_their_photons_and_electronics_less_those_of_the_full_dose(dose: float) -> None:
    """A binomial share of N photons has the variance a (1 - a) N; electronics s^2, less a^2 of it."""
    photons, sd = 2e4, 60.0
    sinogram = simulator(dose, electronic_sd=sd, **COUNTS)._noise_of_counts(torch.full((1, 144, 184), photons), [0])
    variance = dose * (1 - dose) * photons + (1 - dose**2) * sd**2
    assert float(sinogram.double().var()) == pytest.approx(variance / (dose * photons) ** 2, rel=0.02)


def test_counts_stay_finite_and_are_biased_as_their_logarithm() -> None:
    """E ln(m / y) of a Poisson y with mean m is 1 / (2 m) + 5 / (12 m^2) + ...; behind metal nothing breaks."""
    sinogram = simulator(0.01, **COUNTS)._noise_of_counts(torch.full((1, 144, 184), 2000.0), [0])
    assert float(sinogram.double().mean()) == pytest.approx(1 / 40 + 5 / 4800, rel=0.05)
    starved = simulator(0.1, photons=1e4, electronic_sd=5, **COUNTS)
    assert starved.noise_hu(torch.full((1, SIDE, SIDE), 30000.0), [0]).isfinite().all()


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1, 0.02])
@pytest.mark.parametrize("photons", [0.3, 1, 2, 5, 10, 20, 50])
def test_at_few_counts_the_log_varies_about_as_that_of_thinned_counts(dose: float, photons: float) -> None:
    """At the low dose, against draws. Of 1/N + s^2/N^2 at a single count the noise would be six times as large."""
    full, sd, rng = max(round(photons / dose), 1), 5.0, np.random.default_rng(0)
    low = rng.binomial(full, dose, 20000) + rng.normal(0, sd * np.sqrt(1 - dose**2), 20000)
    variance = simulator(dose, electronic_sd=sd).variance(torch.tensor([float(full)]))
    assert 0.7 < float(variance.sqrt()) / np.log(np.maximum(low, 1)).std() < 1.3


@pytest.mark.parametrize(
    "changed", [{"z_correlation": (0.5,)}, {"z_correlation": "scan"}, {"backprojection": "gridded"}]
)
def test_counts_are_refused_for_noise_that_is_shared_or_sorted(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"counts draws each ray by itself: set z_correlation: \[\] and back"):
        LowDoseSettings.model_validate(COUNTS | changed)


def volume(slices: int) -> CTVolume:
    return CTVolume(np.repeat(water()[:1].numpy().astype(np.int16), slices, 0), (2.5, PIXEL, PIXEL))


def test_the_same_seed_gives_the_same_bytes_whatever_the_batches_and_threads() -> None:
    settings = LowDoseSettings.model_validate({"doses": 0.1, "geometry": COARSE})
    low_hu = simulate(volume(37), settings, "scan", threads=2)
    assert low_hu.dtype == np.int16
    np.testing.assert_array_equal(low_hu, simulate(volume(37), settings, "scan", threads=1))
    np.testing.assert_array_equal(low_hu[:5], simulate(volume(5), settings, "scan"))
    assert (low_hu != simulate(volume(37), settings, "other")).mean() > 0.5
    assert (low_hu != simulate(volume(37), settings.model_copy(update={"seed": 1}), "scan")).mean() > 0.5
    assert low_hu.min() >= -1024


@pytest.mark.parametrize("domain", [{}, {"z_correlation": (0.6, 0.2)}, COUNTS], ids=["log", "alike", "counts"])
def test_a_scan_may_come_in_any_pieces(domain: dict[str, Any]) -> None:
    settings = LowDoseSettings.model_validate({"doses": 0.1, "geometry": COARSE, **domain})
    low_hu, low_dose_simulator = simulate(volume(20), settings, "scan"), LowDoseSimulator(settings, SIDE, PIXEL)
    pieces = [low_dose_simulator.low_dose(volume(n).hu, "scan", first) for first, n in ((0, 3), (3, 1), (4, 16))]
    np.testing.assert_array_equal(np.concatenate(pieces), low_hu)


@pytest.mark.slow
def test_noise_of_the_real_sample_is_what_its_dose_predicts(sample: CTVolume) -> None:
    """From a half to a tenth the added noise grows by 3 = sqrt(9/1) where electronic noise is small."""
    middle = CTVolume(sample.hu[60:64], sample.spacing)
    rms = []
    for dose in (0.5, 0.1):
        low = simulate(middle, LowDoseSettings(doses=(dose,), photons=1e7, electronic_sd=0), "x", threads=2)
        body = (sample.hu[60:64] > -500) & (sample.hu[60:64] < 500)
        rms.append(float((low.astype(float) - sample.hu[60:64])[body].std()))
    assert rms[1] / rms[0] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("pixel", [1.0, 1.1])
def test_simulators_of_one_geometry_share_its_tables_whatever_their_dose(pixel: float) -> None:
    first, second = (
        LowDoseSimulator(LowDoseSettings(doses=(dose,)), 64, at) for dose, at in ((0.1, 1.0), (0.5, pixel))
    )
    addresses = [
        (simulator.project.table.weights.data_ptr(), simulator.reconstruct.spread.weights.data_ptr(),
         simulator.reconstruct.sort.weights.data_ptr(), simulator.reconstruct.roll_off.data_ptr())
        for simulator in (first, second)
        if isinstance(simulator.reconstruct, GriddedBackprojector)
    ]  # fmt: skip
    assert len(addresses) == 2
    assert (addresses[0] == addresses[1]) == (pixel == 1.0)


def test_slice_seeds_differ_and_stay() -> None:
    assert slice_seed(0, "a", 1) == slice_seed(0, "a", 1)
    assert len({slice_seed(s, n, i) for s in range(3) for n in "ab" for i in range(50)}) == 300


def test_where_no_photon_arrives_the_noise_stays_finite() -> None:
    """Behind metal a detector still counts its electronics: the noise is that of 5.52 counts, whose own is 5.52."""
    a, photons, sd = 0.1, 1e5, 5.0
    counts = photons * torch.exp(-torch.tensor([7.0, 20.0, 1000.0]))
    variance = simulator(a, photons, electronic_sd=sd).variance(counts)
    least = 5.525
    assert math.sqrt(least + sd**2) == pytest.approx(least, rel=1e-3)
    at_least = (1 - a) / least + (1 - a**2) * sd**2 / least**2
    torch.testing.assert_close(variance[1:], torch.full((2,), at_least), rtol=1e-3, atol=0)
    assert variance[0] < variance[1]
    metal = torch.full((1, SIDE, SIDE), 30000.0)
    assert simulator(a, photons, electronic_sd=sd).noise_hu(metal, [0]).isfinite().all()
