from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.lowdose.noise import LowDoseSimulator, simulate, slice_seed
from data_prep.settings import LowDoseSettings
from data_prep.volume import CTVolume

SIDE, PIXEL, SLICES = 128, 2.8, 8


@cache
def simulator(dose: float, photons: float = 1e6, electronic: float = 0.0) -> LowDoseSimulator:
    return LowDoseSimulator(LowDoseSettings(dose=dose, photons=photons, electronic_sd=electronic), SIDE, PIXEL)


def radius() -> Tensor:
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    return (axis[None] ** 2 + axis[:, None] ** 2).sqrt()


def water() -> Tensor:
    """Slices of a 30 cm water disc, HU."""
    return torch.where(radius() < 150, 0.0, -1000.0)[..., None].repeat(1, 1, SLICES)


def centre(noise: Tensor) -> Tensor:
    return noise[radius() < 100]


def seeds(first: int = 0) -> list[int]:
    return list(range(first, first + SLICES))


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1, 0.05])
def test_variance_adds_up_to_a_scan_at_the_low_dose(dose: float) -> None:
    """Full-dose noise plus added noise is as large as that of a scan with dose x photons (within 2 %)."""
    as_scan = simulator(0.5).variance  # (1-a)/a = 1: the variance of a whole scan at these photons
    integrals = torch.linspace(0, 6, 50)
    full, low = as_scan(integrals), simulator(0.5, photons=1e6 * dose).variance(integrals)
    torch.testing.assert_close(full + simulator(dose).variance(integrals), low, rtol=1e-5, atol=0)


def test_noise_times_root_dose_is_constant() -> None:
    full = centre(simulator(0.5).noise_hu(water(), seeds())).double()
    total = []
    for dose in (0.5, 0.25, 0.1, 0.05):
        added = centre(simulator(dose).noise_hu(water(), seeds(100))).double()
        total.append(float((full + added).std()) * dose**0.5)
    assert max(total) / min(total) < 1.02


def test_electronic_noise_follows_its_formula() -> None:
    a, photons, sd, p = 0.1, 1e4, 5.0, torch.tensor([0.0, 3.0, 6.0])
    counts = photons * torch.exp(-p)
    scan = 1 / (a * counts) + sd**2 / (a * counts) ** 2
    full = 1 / counts + sd**2 / counts**2
    torch.testing.assert_close(simulator(a, photons, sd).variance(p), scan - full, rtol=1e-4, atol=0)


def test_mean_hu_of_water_is_unchanged() -> None:
    noise = centre(simulator(0.1).noise_hu(water(), seeds()))
    assert abs(float(noise.mean())) < 0.5
    assert float(noise.std()) > 5


def test_the_noise_power_spectrum_keeps_its_shape() -> None:
    def spectrum(dose: float, first: int) -> Tensor:
        noise = torch.cat(
            [simulator(dose).noise_hu(water(), seeds(first + SLICES * i))[32:96, 32:96] for i in range(16)], 2
        )
        power = torch.fft.fft2((noise - noise.mean((0, 1))).permute(2, 0, 1)).abs().square().mean(0)
        frequency = torch.fft.fftfreq(64)
        ring = ((frequency[None] ** 2 + frequency[:, None] ** 2).sqrt() * 16).long().clamp(max=8)
        return torch.stack([power[ring == r].mean() for r in range(1, 8)])

    added = spectrum(0.1, 0) + spectrum(0.5, 1000)  # low dose = added noise + that of the full dose
    ratio = added * 0.1 / spectrum(0.5, 2000)
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1


def test_a_quarter_turn_turns_the_statistics() -> None:
    """An ellipse is noisier along its long axis; turned by 90 degrees, so is its noise."""
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    ellipse = torch.where((axis[None] / 160) ** 2 + (axis[:, None] / 80) ** 2 < 1, 0.0, -1000.0)
    made = simulator(0.1, photons=1e5)

    def deviations(image: Tensor) -> Tensor:
        noise = torch.cat(
            [made.noise_hu(image[..., None].repeat(1, 1, SLICES), seeds(SLICES * i)) for i in range(8)], 2
        )
        blocks = noise.reshape(8, 16, 8, 16, -1).permute(0, 2, 1, 3, 4).reshape(8, 8, -1)
        return blocks.std(-1)[2:6, 2:6]

    upright, turned = deviations(ellipse), deviations(torch.rot90(ellipse, 1, (0, 1)))
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (0, 1)), rtol=0.05, atol=0)


def volume(slices: int) -> CTVolume:
    hu = water()[..., 0].numpy().astype(np.int16)
    return CTVolume(np.repeat(hu[None], slices, 0), (2.5, PIXEL, PIXEL))


def test_the_same_seed_gives_the_same_bytes_whatever_the_batches_and_threads() -> None:
    settings = LowDoseSettings(dose=0.1)
    whole = simulate(volume(37), settings, "scan", threads=2)
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, simulate(volume(37), settings, "scan", threads=1))
    np.testing.assert_array_equal(whole[:5], simulate(volume(5), settings, "scan"))
    assert (whole != simulate(volume(37), settings, "other")).mean() > 0.5
    assert (whole != simulate(volume(37), LowDoseSettings(dose=0.1, seed=1), "scan")).mean() > 0.5
    assert whole.min() >= -1024


def test_noise_of_the_real_sample_is_what_its_dose_predicts(sample: CTVolume) -> None:
    """From a half to a tenth the added noise grows by 3 = sqrt(9/1) where electronic noise is small."""
    middle = CTVolume(sample.hu[60:64], sample.spacing)
    rms = []
    for dose in (0.5, 0.1):
        low = simulate(middle, LowDoseSettings(dose=dose, photons=1e7, electronic_sd=0), "x", threads=2)
        body = (sample.hu[60:64] > -500) & (sample.hu[60:64] < 500)
        rms.append(float((low.astype(float) - sample.hu[60:64])[body].std()))
    assert rms[1] / rms[0] == pytest.approx(3, rel=0.05)


def test_slice_seeds_differ_and_stay() -> None:
    assert slice_seed(0, "a", 1) == slice_seed(0, "a", 1)
    assert len({slice_seed(s, n, i) for s in range(3) for n in "ab" for i in range(50)}) == 300


def test_where_no_photon_arrives_the_noise_stays_finite() -> None:
    """Behind metal a detector still counts its electronics: at least one count at the low dose."""
    a, photons, sd = 0.1, 1e5, 5.0
    found = simulator(a, photons, sd).variance(torch.tensor([8.0, 20.0, 1000.0]))
    at_one_count = (1 - a) + (1 - a**2) * sd**2
    torch.testing.assert_close(found[1:], torch.full((2,), at_one_count))
    assert found[0] < found[1]
    metal = torch.full((SIDE, SIDE, 1), 30000.0)
    assert simulator(a, photons, sd).noise_hu(metal, [0]).isfinite().all()
