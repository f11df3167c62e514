"""What a scan's noise model is where its noise cannot be measured, and what the manifest says of a scan's noise."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data_prep.errors import ScanError, UserError
from data_prep.lowdose.flags import is_flagged
from data_prep.lowdose.geometry import Fan
from data_prep.lowdose.matching import match, photons_of
from data_prep.lowdose.model import check_correlation, named_model
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import Slab, slab_ranges
from data_prep.settings import GeometrySettings, LowDoseSettings
from data_prep.volume import Acquisition
from tests.data_prep.noisy_scans import Hu, abdomen, bell, coloured, low_dose_of, noisy_slabs

SIDE, PIXEL = 128, 1.4
COARSE = GeometrySettings(views=288, channels=368, channel_arc_mm=2.5716)
SETTINGS = LowDoseSettings(doses=(0.1,), geometry=COARSE)


def volume(slices: int, sd: float = 12.0, level: float = 50.0) -> Hu:
    hu = level + sd * np.random.default_rng(0).normal(size=(slices, SIDE, SIDE))
    return np.clip(hu, -1024, 3071).round().astype(np.int16)


def slabs_of(hu: Hu) -> list[Slab]:
    return [Slab(start, hu[start:stop]) for start, stop in slab_ranges(len(hu))]


UNMEASURABLE = {
    "one slice": volume(1),
    "two slices": volume(2),
    "three slices": volume(3),
    "without noise": volume(20, 0),
    "of water without noise": volume(20, 0, 0),
    "of bone": volume(20, 12, 900),
    "of air": volume(20, 12, -1000),
    "all padding": volume(20, 0, -1024),
    "without even tissue": (np.indices((20, SIDE, SIDE)).sum(0) % 40 * 60 - 1000).astype(np.int16),
}


@pytest.mark.parametrize("name", UNMEASURABLE)
def test_a_scan_whose_noise_cannot_be_measured_gets_the_defaults_and_a_remark(name: str) -> None:
    hu = UNMEASURABLE[name]
    low_dose = low_dose_of(slabs_of(hu), PIXEL, SETTINGS)
    row = low_dose.record.row()
    assert low_dose.model == replace(named_model(SETTINGS), scanner=low_dose.model.scanner)
    assert (low_dose.model.photons, low_dose.model.sparing) == (1.35e5, 0.3)
    assert (low_dose.model.z_filter, low_dose.model.gain) == ((1.0,), (1.0,))
    assert row["noise_remark"] == (
        "too few slices, too little uniform soft tissue, or no noise, to measure the scan's own; "
        "what the settings leave to the scan follows the defaults"
    )
    assert is_flagged(row)
    assert row["noise_ratio"] is None
    if name == "all padding":
        assert not np.any(low_dose.added)


@pytest.mark.parametrize(("slices", "count", "length"), [(4, 2, 2), (6, 2, 3), (31, 6, 5), (64, 10, 5), (500, 10, 5)])
def test_slabs_are_as_long_and_as_many_as_fit_and_share_no_slice(slices: int, count: int, length: int) -> None:
    ranges = slab_ranges(slices)
    assert [stop - start for start, stop in ranges] == [length] * count
    assert (ranges[0][0], ranges[-1][1]) == (0, slices)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


def test_a_field_wider_than_any_fan_is_cut_and_said() -> None:
    low_dose = low_dose_of(slabs_of(volume(20, level=-1000)), 7.0, SETTINGS)
    assert low_dose.model.is_cut
    assert low_dose.record.row(is_cut=True)["noise_remark"].endswith(
        "no noise beyond the fan, which the field is wider than"
    )
    assert Fan(low_dose.model.scanner).reach == pytest.approx(0.95 * 595, rel=0.01)
    assert not low_dose.added[0][:, 0, 0].any()


@pytest.mark.parametrize(("radius", "is_widened"), [(240, False), (300, True)])
def test_the_field_ends_where_padding_begins(radius: float, is_widened: bool) -> None:
    """Of the widest slice. Corners lie at 389 mm, and the fan reaches to 249 mm."""
    hu, pixel = volume(4), 4.3
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) * pixel
    for plane, seen in zip(hu, (100, radius, 150, 200), strict=True):
        plane[np.hypot(axis[:, None], axis) > seen] = -1024
    model = match(slabs_of(hu), None, SETTINGS, pixel, Acquisition())
    assert (model.scanner != COARSE) == is_widened
    assert radius <= Fan(model.scanner).reach < radius + 30
    assert not model.is_cut


@pytest.mark.parametrize("correlation", [(0.9,), (0.9, 0.9, 0.9), (-0.9,)])
def test_a_named_correlation_that_no_noise_has_is_refused_with_a_similar_one(correlation: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"no noise has data.low_dose.z_correlation \[.*\]; similar is \[-?0\."):
        check_correlation(correlation)


@pytest.mark.parametrize("correlation", [(), (0.5,), (0.6, 0.2), (-0.5,), (0.9, 0.7, 0.4, 0.15)])
def test_a_named_correlation_that_noise_can_have_is_taken(correlation: tuple[float, ...]) -> None:
    check_correlation(correlation)


def test_little_added_noise_is_flagged() -> None:
    slabs = noisy_slabs(abdomen(SIDE, PIXEL, (85, 75)), coloured(SIDE, PIXEL, bell(0.15)), 1.2, 2)
    row = low_dose_of(slabs, PIXEL, SETTINGS.at(0.99)).record.row()
    assert row["noise_remark"] == "too little noise was added to be measured"
    assert is_flagged(row)


def test_six_slices_are_enough() -> None:
    slabs = noisy_slabs(abdomen(SIDE, PIXEL, (85, 75)), coloured(SIDE, PIXEL, bell(0.15)), 12.0, 2)
    hu = np.concatenate([slab.hu for slab in slabs])[:6]
    low_dose = low_dose_of(slabs_of(hu), PIXEL, SETTINGS)
    assert low_dose.record.row()["noise_full_hu"] == pytest.approx(12, rel=0.05)
    assert 0.9 < low_dose.ratio < 1.1


def test_photons_by_mas_follow_mas_thickness_and_the_square_of_kv() -> None:
    acquisition = Acquisition(mas=100, kvp=120, thickness=1)
    photons = photons_of(acquisition)
    assert photons == pytest.approx(7e4)
    assert photons_of(replace(acquisition, mas=200)) == pytest.approx(2 * photons)
    assert photons_of(replace(acquisition, thickness=2.5)) == pytest.approx(2.5 * photons)
    assert photons_of(replace(acquisition, kvp=80)) == pytest.approx(photons / 2.25)
    model = match(slabs_of(volume(20)), None, SETTINGS.model_copy(update={"photons": "mas"}), PIXEL, acquisition)
    assert model.photons == photons


@pytest.mark.parametrize(("key", "name"), [("mas", "mAs"), ("kvp", "kV"), ("thickness", "slice thickness")])
def test_photons_by_mas_are_refused_without_them(key: str, name: str) -> None:
    acquisition = Acquisition(**{"mas": 100.0, "kvp": 120.0, "thickness": 1.0, key: None})  # type: ignore[arg-type]
    settings = SETTINGS.model_copy(update={"photons": "mas"})
    expected = f"it does not say its {name}, which photons: mas needs; set photons to scan or a number"
    with pytest.raises(ScanError, match=expected):
        match(slabs_of(volume(20)), None, settings, PIXEL, acquisition)


def test_named_settings_stay_as_they_are_named() -> None:
    settings = LowDoseSettings(doses=(0.1,), photons=1e5, window="hann", z_correlation=(0.5,), geometry=COARSE)
    slabs = noisy_slabs(abdomen(SIDE, PIXEL, (85, 75)), coloured(SIDE, PIXEL, bell(0.15)), 12.0, 4)
    model = low_dose_of(slabs, PIXEL, settings).model
    assert model == replace(named_model(settings), scanner=model.scanner)


def test_a_model_gives_the_same_bytes_in_any_pieces() -> None:
    """Noise that is shared by slices, and grows along the scan."""
    model = replace(
        named_model(SETTINGS), z_filter=(0.8, 0.5, 0.33166), gain_slices=(2.0, 15.0), gain=(0.7, 1.9), sparing=0.3
    )
    simulator, hu = LowDoseSimulator(SETTINGS, SIDE, PIXEL, model=model), volume(37)
    low = simulator.low_dose(hu, "scan", 0)
    pieces = [simulator.low_dose(hu[start:stop], "scan", start) for start, stop in ((0, 1), (1, 4), (4, 23), (23, 37))]
    np.testing.assert_array_equal(np.concatenate(pieces), low)
    level = (low - hu).astype(float).std((1, 2))
    assert level[20:].mean() / level[:3].mean() == pytest.approx(1.9 / 0.7, rel=0.1)


@pytest.mark.parametrize(
    ("pixel", "peak", "words"),
    [(1.0, 0.1, "grain of a smooth kernel or of iterative reconstruction"), (0.6, 2.0, "grain of a sharp kernel")],
)
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_remarks_name_the_grain_and_noise_that_is_not_what_the_dose_must_add(
    pixel: float, peak: float, words: str, factor: float
) -> None:
    grain = coloured(SIDE, pixel, bell(peak))
    slabs = noisy_slabs(np.full((SIDE, SIDE), 50.0), grain, 12.0, 3)
    record = NoiseRecord(slabs, pixel, 0.1)
    for number, slab in enumerate(slabs):
        low = slab.hu + factor * 3 * 12 * grain(len(slab.hu), 100 + number)
        record.add(slab.first, slab.hu, low.round().astype(np.int16))
    row = record.row()
    assert row["noise_ratio"] == pytest.approx(factor, rel=0.03)
    assert row["noise_expected_hu"] == pytest.approx(36, rel=0.05)
    assert row["noise_full_hu_low"] < row["noise_full_hu"] < row["noise_full_hu_high"]
    assert is_flagged(row) is not math.isclose(factor, 1)
    odd = f"added noise is {row['noise_ratio']:.2f} of the expected"
    assert row["noise_remark"] == "; ".join([words] + [odd] * (factor != 1))
