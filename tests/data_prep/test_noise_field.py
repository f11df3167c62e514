"""Where the added noise reaches: air, corners, large and small fields, but not padding."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from data_prep.lowdose.geometry import Fan
from data_prep.lowdose.model import named_model, widened
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.padding import padding
from data_prep.lowdose.scan_noise import Slab
from data_prep.settings import GeometrySettings, LowDoseSettings
from tests.data_prep.noisy_scans import Array, LowDose, abdomen, bell, coloured, ellipse, low_dose_of, noisy_slabs

COARSE = GeometrySettings(views=288, channels=368, channel_arc_mm=2.5716)


def local_sd(noise: Array, side: int = 15) -> Array:
    """SD over slices and squares of ``side`` pixels, of noise whose mean is 0."""
    return np.asarray(np.sqrt(uniform_filter((noise**2).mean(0), side)))


def full_to_added(low_dose: LowDose, area: NDArray[np.bool_]) -> float:
    """SD of what the slices of a scan with the same anatomy everywhere differ by, low over full dose."""
    full, added = (
        np.concatenate([np.diff(hu, axis=0)[:, area] for hu in slices])
        for slices in ([slab.hu.astype(float) for slab in low_dose.record.slabs], low_dose.added)
    )
    return float(added.std() / full.std())


def test_padding_is_square_areas_of_the_lowest_value() -> None:
    hu = np.full((2, 64, 64), -1000, np.int16)
    hu[0, 10:15, 20:25] = -1024
    hu[0, 30:34, 20:60] = -1024  # too narrow
    hu[1, :, 62:] = -1024  # at the edge it goes on outside of the image
    hu[1, 5, 5] = -1024
    expected = np.zeros(hu.shape, bool)
    expected[0, 10:15, 20:25] = True
    expected[1, :, 62:] = True
    np.testing.assert_array_equal(padding(hu), expected)


@pytest.mark.parametrize("is_padded", [True, False])
def test_noise_ends_where_padding_begins_or_reaches_the_corners(is_padded: bool) -> None:
    """Air as a scanner stores it: not below -1024 HU, which alone is no padding."""
    circle = ellipse(128, 4, (250, 250)) < 1
    plane = np.where(ellipse(128, 4, (160, 115)) < 1, 40.0, -1000.0)
    air = plane + np.random.default_rng(0).normal(0, 14, (3, 128, 128))
    hu = np.clip(air, -1024, 3000).round().astype(np.int16)
    if is_padded:
        hu[:, ~circle] = -1024
    scanner = widened(COARSE, 128 / 2 * 4 * 2**0.5)
    settings = LowDoseSettings(geometry=COARSE)
    low = LowDoseSimulator(settings, 128, 4, model=replace(named_model(settings), scanner=scanner)).low_dose(hu, "a", 0)
    if is_padded:
        np.testing.assert_array_equal(low[:, ~circle], -1024)
    corners = (low - hu)[:, [[0], [1], [2], [-1], [-2]], [0, 1, 2, -1, -2]]
    assert (corners != 0).any() == (not is_padded)
    edge = circle & (ellipse(128, 4, (240, 240)) > 1)
    assert (low - hu)[:, edge].std() > 3
    if not is_padded:
        assert 0.5 < corners.std() / (low - hu)[:, edge].std() < 1.5


@cache
def with_arms() -> LowDose:
    """A body with its arms down at 300 mm from the centre, beyond the scanner's fan."""
    plane = abdomen(384, 2.0, (200, 130))
    for x in (-300, 300):
        plane[ellipse(384, 2.0, (45, 45), (x, 20)) < 1] = 50
        plane[ellipse(384, 2.0, (14, 14), (x, 20)) < 1] = 900
    slabs = noisy_slabs(plane, coloured(384, 2.0, bell(0.15)), 12.0, 3)
    return low_dose_of(slabs, 2.0, LowDoseSettings(doses=(0.1,), geometry=COARSE))


def test_the_detector_is_as_wide_as_the_field_and_never_narrower_than_the_scanners() -> None:
    scanner = LowDoseSettings().geometry
    assert widened(scanner, 240.0) == scanner
    wide = widened(scanner, 300.0)
    narrower = wide.model_copy(update={"channels": wide.channels - 32})
    assert Fan(narrower).reach < 300 <= Fan(wide).reach


@pytest.mark.slow
def test_arms_beyond_the_fan_do_not_flood_the_image() -> None:
    low_dose, body = with_arms(), ellipse(384, 2.0, (200, 130)) < 0.85
    sd = local_sd(np.concatenate(low_dose.added))
    assert 0.9 < low_dose.ratio < 1.1
    assert full_to_added(low_dose, body) == pytest.approx(3, rel=0.1)
    assert sd[body].max() < 1.5 * np.median(sd[body])
    assert sd.max() < 1.5 * np.median(sd[body])
    assert sd.min() > 0.2 * np.median(sd[body])  # corners too


def test_a_cropped_field_of_view_gets_its_level() -> None:
    """90 mm of a body of 330 mm: most of what weakens the rays is not in the image."""
    slabs = noisy_slabs(abdomen(192, 0.47, (165, 120)), coloured(192, 0.47, bell(0.3)), 14.0, 3)
    low_dose = low_dose_of(slabs, 0.47, LowDoseSettings(doses=(0.1,), geometry=COARSE))
    sd = local_sd(np.concatenate(low_dose.added), 31)
    assert 0.9 < low_dose.ratio < 1.1
    assert full_to_added(low_dose, np.ones((192, 192), bool)) == pytest.approx(3, rel=0.1)
    assert 0.6 < sd.min() / np.median(sd) < sd.max() / np.median(sd) < 1.5


def test_air_has_half_the_noise_of_soft_tissue_by_default() -> None:
    """Real quarter-dose slices have 14.4 and 28.5 HU."""
    shape = ellipse(512, 0.664, (160, 115))
    hu = np.where(shape < 1, 40, -1000).astype(np.int16)[None].repeat(4, 0)
    added = LowDoseSimulator(LowDoseSettings(), 512, 0.664).low_dose(hu, "scan", 0) - hu
    soft, air = added[:, shape < 0.4].std(), added[:, shape > 1.06].std()
    assert soft == pytest.approx(28.5, rel=0.15)
    assert air / soft == pytest.approx(14.4 / 28.5, abs=0.05)


def test_air_has_half_the_noise_of_soft_tissue_where_a_scan_spares_dense_rays_as_real_ones_do() -> None:
    """With half the default views, of twice the photons."""
    side, pixel = 384, 0.885
    shape = ellipse(side, pixel, (160, 115))
    settings = LowDoseSettings(geometry=GeometrySettings(views=576))
    scan = LowDoseSimulator(settings, side, pixel, model=replace(named_model(settings), sparing=0.3, photons=3e5))
    plane = torch.from_numpy(np.where(shape < 1, 40.0, -1000.0)).float()[None]
    deviation = scan.reconstruct.deviation(scan.full_dose_variance(scan.counts(plane)))

    def noise(slices: int, seed: int) -> Array:
        draws = torch.randn(slices, *scan.reconstruct.shape, generator=torch.Generator().manual_seed(seed))
        return scan.reconstruct(draws * deviation).double().numpy() * 1000 / settings.water_per_mm

    slabs: list[Slab] = noisy_slabs(plane[0].double().numpy(), noise, 1.0, 3)
    low_dose = low_dose_of(slabs, pixel, settings)
    added = np.concatenate(low_dose.added)
    soft, air = added[:, shape < 0.4].std(), added[:, shape > 1.06].std()
    assert low_dose.model.sparing == pytest.approx(0.3, abs=0.1)
    assert low_dose.ratio == pytest.approx(1, abs=0.1)
    assert air / soft == pytest.approx(14.4 / 28.5, abs=0.05)


def test_an_implant_gives_the_same_noise_in_scans_of_12_and_of_16_bits() -> None:
    """Through 5 cm of 32767 HU no photon comes: matched to such rays, all noise would be streaks from the implant."""
    implant = ellipse(128, 2.8, (25, 25), (40, 0)) < 1
    short = noisy_slabs(abdomen(128, 2.8, (165, 120)), coloured(128, 2.8, bell(0.1)), 12.0, 4)
    long = [Slab(slab.first, np.where(implant, np.int16(32767), slab.hu)) for slab in short]
    short = [Slab(slab.first, np.where(implant, np.int16(3071), slab.hu)) for slab in short]
    settings = LowDoseSettings(doses=(0.1,), geometry=COARSE)
    of_short, of_long = (low_dose_of(slabs, 2.8, settings) for slabs in (short, long))
    assert of_long.model == of_short.model
    for added, expected in zip(of_long.added, of_short.added, strict=True):
        np.testing.assert_array_equal(added[:, ~implant], expected[:, ~implant])
    assert 0.9 < of_long.ratio < 1.1


def odd_plane(name: str) -> Array:
    plane = abdomen(256, 1.4, (165, 120))
    match name:
        case "metal":
            for x in (40, -60):
                plane[ellipse(256, 1.4, (25, 25), (x, 0)) < 1] = 3071
        case "contrast":
            plane[ellipse(256, 1.4, (60, 50), (0, -30)) < 1] = 380
        case "head":
            plane = np.where(ellipse(256, 1.4, (75, 95)) < 1, 1200.0, -1000.0)
            plane[ellipse(256, 1.4, (68, 88)) < 1] = 35
        case "off centre":
            plane = np.where(ellipse(256, 1.4, (60, 45), (90, -60)) < 1, 50.0, -1000.0)
    return plane


@pytest.mark.slow
@pytest.mark.parametrize(("name", "highest"), [("metal", 1.7), ("contrast", 1.35), ("head", 1.2), ("off centre", 1.2)])
def test_odd_scans_get_their_level_too(name: str, highest: float) -> None:
    """Nowhere, in dense parts or in air, does the noise leave the bounds around that of soft tissue, 36 HU."""
    slabs = noisy_slabs(odd_plane(name), coloured(256, 1.4, bell(0.15)), 12.0, 3)
    low_dose = low_dose_of(slabs, 1.4, LowDoseSettings(doses=(0.1,)))
    assert low_dose.record.row()["noise_full_hu"] == pytest.approx(12, rel=0.05)
    assert 0.9 < low_dose.ratio < 1.1
    sd = local_sd(np.concatenate(low_dose.added))
    assert 0.3 * 36 < sd.min() < sd.max() < highest * 36
