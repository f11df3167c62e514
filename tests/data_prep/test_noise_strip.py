"""The noise of a scan on its contact sheet, and the flags of scans whose noise a person should look at."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data_prep.lowdose.flags import describe_flags
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import Slab
from data_prep.noise_strip import noise_crops, noise_strip
from data_prep.overview import DARK, LIGHT, MARGIN, WARNING, Overview, _titles, draw_pages, font
from data_prep.paths import contact_path

SIDE, PIXEL, SD = 192, 0.7, 10.0


def record(*, added: float = 3 * SD, dose: float | None = 0.1, sd: float = SD) -> NoiseRecord:
    """Record two slabs of soft tissue with white noise; the left third has edges that move from slice to slice."""
    rng = np.random.default_rng(1)
    full = (50 + rng.normal(0, sd, (10, SIDE, SIDE))).astype(np.int16)
    full[:, :, : SIDE // 3] += (400 * (np.arange(SIDE // 3) // 8 % 2) + 40 * np.arange(10)[:, None, None]).astype(
        np.int16
    )
    low = full + np.rint(rng.normal(0, added, full.shape)).astype(np.int16)
    record = NoiseRecord([Slab(0, full[:5]), Slab(5, full[5:])], PIXEL, dose)
    record.add(0, full, low)
    return record


def has_warning(image: Image.Image) -> bool:
    return bool((np.asarray(image) == WARNING).all(-1).any())


def test_both_crops_show_the_noise_of_uniform_tissue_on_one_scale() -> None:
    full, added = noise_crops(record())
    assert full.shape == added.shape == (72, 72)
    assert full.std() == pytest.approx(SD, rel=0.04)  # an edge or a step of 40 HU would show
    assert added.std() == pytest.approx(SD, rel=0.04)
    assert abs(np.corrcoef(full.ravel(), added.ravel())[0, 1]) < 0.05


def test_the_noise_of_a_measured_pair_stands_as_it_is() -> None:
    _, added = noise_crops(record(dose=None))
    assert added.std() == pytest.approx(3 * SD, rel=0.04)
    np.testing.assert_array_equal(added, np.rint(added))


@pytest.mark.parametrize(("added", "is_odd"), [(3.0, False), (3.6, True), (2.4, True)])
def test_a_strip_warns_of_noise_that_the_dose_does_not_ask_for(added: float, is_odd: bool) -> None:
    noise = record(added=added * SD)
    row = noise.row()
    assert row["noise_ratio"] == pytest.approx(added / 3, rel=0.03)
    assert has_warning(noise_strip(noise, row)) == is_odd


def test_rounding_to_whole_hu_is_no_noise_that_the_dose_adds() -> None:
    """Of as much noise as 1 HU, whole HU add a twelfth of its variance, to the scan's own noise as well."""
    row = record(added=1.0, dose=0.5, sd=1.0).row()
    assert row["noise_full_hu"] == pytest.approx(math.sqrt(13 / 12), rel=0.015)
    assert row["noise_added_hu"] == pytest.approx(math.sqrt(13 / 12), rel=0.015)
    assert row["noise_ratio"] == pytest.approx(math.sqrt(12 / 13), rel=0.015)  # 4 % below 1


@pytest.mark.parametrize(("smoothing", "side"), [(0, 72), (2, 144)])
def test_the_crops_say_how_many_of_the_scans_pixels_they_are_wide(smoothing: int, side: int) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (10, 512, 512))
    smooth = gaussian_filter(noise, (0, smoothing, smoothing))
    full = np.rint(50 + SD / smooth.std() * smooth).astype(np.int16)
    record = NoiseRecord([Slab(0, full[:5]), Slab(5, full[5:])], PIXEL, 0.5)
    assert noise_crops(record)[0].shape == (72, 72)
    strip = noise_strip(record, record.row())
    expected = Image.new("RGB", strip.size, DARK)
    ImageDraw.Draw(expected).text((6, 114), f"noise,\n{side} x {side}\npixels", LIGHT, font(13))
    box = 0, 114, MARGIN, 160
    np.testing.assert_array_equal(np.asarray(strip.crop(box)), np.asarray(expected.crop(box)))


def test_the_plot_has_both_spectra_at_their_height() -> None:
    noise = record()
    strip = np.asarray(noise_strip(noise, noise.row()))[:, 770:1271]
    added = (strip == (255, 190, 80)).all(-1)
    rows = [np.flatnonzero(added[24:266, x]).mean() for x in (150, 200, 250, 300)]
    # white noise of 10 HU has 100 HU^2 a pixel of 0.7 mm: 49 HU^2 mm^2; the axis ends 5 % above the highest ring
    full, low = (np.array(scan.spectrum[1:]) for scan in noise.noise if scan)
    limit = 1.05 * max(full.max(), low.max() / 9)
    assert np.mean(rows) == pytest.approx(242 * (1 - 49 / limit), abs=12)


def test_a_scan_without_noise_says_so_in_place_of_the_strip() -> None:
    noise = record(sd=0.0)
    row = noise.row()
    assert row["noise_remark"].startswith("too few slices, too little uniform soft tissue, or no noise")
    strip = noise_strip(noise, row)
    assert strip.height < 60
    assert has_warning(strip)


def test_a_sheet_says_of_each_noise_whether_it_is_known() -> None:
    known = manifest_row(noise_full_hu=10.0, noise_added_hu=17.3)
    assert _titles(known)[1].endswith("noise 10 HU full dose, 17.3 HU added (simulated)")
    unknown = manifest_row(noise_full_hu=None, noise_added_hu=None)
    assert _titles(unknown)[1].endswith("noise full dose unknown, added unknown (simulated)")


def test_a_page_marks_the_scans_to_look_at(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).normal(40, 50, (10, 512, 512)).astype(np.int16)
    rows = []
    for scan, added in (("a", 3 * SD), ("b", 2 * SD)):
        noise, overview = record(added=added), Overview(10)
        overview.add(hu, hu)
        row = manifest_row(scan=scan, **noise.row())
        overview.draw(contact_path(tmp_path, "d", scan), row, noise_strip(noise, row))
        rows.append(row)
    draw_pages(tmp_path, rows)
    with Image.open(tmp_path / "contact" / "d-1.png") as page:
        width = page.width // 4
        assert not has_warning(page.crop((0, 0, width, page.height)))
        assert has_warning(page.crop((width, 112, 2 * width, page.height)))  # the caption
        assert not has_warning(page.crop((width, 0, 2 * width, 112)))  # the slices and the section alone


def manifest_row(**values: Any) -> dict[str, Any]:
    return {
        "dataset": "d", "scan": "s", "state": "kept", "slices": 10, "spacing_z_mm": 1.0, "spacing_xy_mm": PIXEL,
        "kernel": "", "kvp": None, "mas": None, "low_dose": "simulated", "noise_full_hu": 10.0,
        "noise_added_hu": 30.0, "noise_ratio": 1.0,
        **values,
    }  # fmt: skip


def test_a_sentence_counts_the_scans_to_look_at() -> None:
    good, odd, measured = manifest_row(), manifest_row(noise_ratio=1.2), manifest_row(noise_ratio=None)
    unmeasured = manifest_row(noise_full_hu=None, noise_ratio=None)
    set_aside = manifest_row(state="turned away", noise_full_hu=None, noise_ratio=None)
    rows = [good, odd, odd, measured, unmeasured, set_aside]
    sentence = describe_flags(pd.DataFrame([{**row, "scan": f"s{number}"} for number, row in enumerate(rows)]))
    assert sentence.startswith("noise to look at in 3 of 5 scans: the noise added to 2 is below 0.9 or above 1.1")
    assert sentence.endswith("; the own or the added noise of 1 could not be measured")
    assert describe_flags(pd.DataFrame([good, odd, good])).startswith("noise to look at in 1 of 1 scans")  # three doses
    assert describe_flags(pd.DataFrame([good, measured])) == ""
    assert describe_flags(pd.DataFrame([{"dataset": "d", "state": "turned away"}])) == ""
