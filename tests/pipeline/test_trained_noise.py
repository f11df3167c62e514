"""What a model says of the noise that it was trained on, and what is said of a scan with other noise."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import ScanNoise, Slab, block_noise, summary
from pipeline.inference.trained_noise import as_text, compare, describe_training
from pipeline.report.tables import records

SLAB_SDS = (6.0, 6.4, 11.0, 11.5, 12.0)
NOISE = ScanNoise(40.0, (36.0, 44.0), (0.0, 0.5), (1.0, 1.0), 0.38, (0.25, 0.06), (35.0, 45.0), 900)
ROWS = pd.DataFrame([
    {"subject": "patient-7", "scan": "s1", "kernel": "B40f", "low_dose": "simulated", "noise_low_hu": "35.5",
     "noise_low_hu_low": "24.5", "noise_low_hu_high": "48.0",
     "noise_low_frequency": "0.377", "noise_low_z_correlation": "0.05"},
    {"subject": "patient-8", "scan": "s2", "kernel": "STANDARD", "low_dose": "measured", "noise_low_hu": "74.25",
     "noise_low_hu_low": "51.0", "noise_low_hu_high": "96.25",
     "noise_low_frequency": "0.361", "noise_low_z_correlation": "0.16"},
    {"subject": "patient-9", "scan": "s3", "kernel": "", "low_dose": "simulated", "noise_low_hu": np.nan,
     "noise_low_hu_low": np.nan, "noise_low_hu_high": np.nan,
     "noise_low_frequency": np.nan, "noise_low_z_correlation": np.nan},
])  # fmt: skip


def test_the_description_holds_ranges_doses_and_kernels_and_nobody() -> None:
    trained = describe_training(records(ROWS), 0.1)
    assert trained == {
        "SD (HU)": [24.5, 96.25], "mean frequency (cycles/mm)": [0.361, 0.377],
        "correlation of neighbouring slices": [0.05, 0.16], "dose": ["10 %", "measured"],
        "kernels": ["B40f", "STANDARD"], "scans": "2 of 3 measured",
    }  # fmt: skip
    text = as_text(trained)
    assert "SD (HU) 24.5 to 96.2; mean frequency (cycles/mm) 0.361 to 0.377;" in text
    assert "dose 10 %, measured; kernels B40f, STANDARD; scans 2 of 3 measured" in text
    unmeasured = describe_training(records(ROWS.iloc[2:]), 0.25)
    assert unmeasured == {"dose": ["25 %"], "kernels": ["unknown"], "scans": "0 of 1 measured"}


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({}, ""),
        ({"sd": 120.0}, ""),  # 96.25 HU x 1.25 is 120.3
        ({"sd": 121.0}, "SD (HU) 121, trained on 24.5 to 96.2"),
        ({"sd": 20.0}, ""),  # 24.5 HU / 1.25 is 19.6
        ({"sd": 19.0}, "SD (HU) 19, trained on 24.5 to 96.2"),
        ({"centroid": 0.572}, "mean frequency (cycles/mm) 0.572, trained on 0.361 to 0.377"),
        ({"z_correlation": (0.33,)}, "correlation of neighbouring slices 0.33, trained on 0.05 to 0.16"),
        ({"z_correlation": ()}, ""),
    ],
)
def test_noise_outside_of_the_training_is_said_in_one_line(change: dict[str, Any], remark: str) -> None:
    line = compare(replace(NOISE, **change), describe_training(records(ROWS), 0.1))
    assert line == (remark and f"its noise is outside of what the model was trained on: {remark}")


def test_a_quieter_part_of_a_training_scan_is_no_noise_that_the_network_does_not_know() -> None:
    rng, side = np.random.default_rng(0), 192
    wave = 40 * np.sin(np.arange(side) / 20)
    tissue = 50 + wave[:, None] + wave
    full = [np.rint(tissue + rng.normal(0, 2, (5, side, side))).astype(np.int16) for _ in SLAB_SDS]
    low = [hu + np.rint(rng.normal(0, math.sqrt(sd**2 - 4), hu.shape)).astype(np.int16)
           for hu, sd in zip(full, SLAB_SDS, strict=True)]  # fmt: skip
    record = NoiseRecord([Slab(5 * n, hu) for n, hu in enumerate(full)], 0.7, 0.1)
    for n in range(len(SLAB_SDS)):
        record.add(5 * n, full[n], low[n])
    row = record.row()
    trained = describe_training([{**row, "low_dose": "simulated", "kernel": ""}], 0.1)
    assert trained["SD (HU)"] == pytest.approx([SLAB_SDS[0], SLAB_SDS[-1]], rel=0.05)
    part = block_noise([Slab(0, low[0]), Slab(5, low[1])])
    assert part
    quiet = summary(part, 0.7)
    assert quiet.sd < row["noise_low_hu"] / 1.25
    assert compare(quiet, trained) == ""


def test_what_cannot_be_compared_is_said() -> None:
    assert compare(None, describe_training(records(ROWS), 0.1)).startswith("its noise could not be measured")
    for trained in ({}, describe_training(records(ROWS.iloc[2:]), 0.1)):
        assert compare(NOISE, trained) == "the model does not say on which noise it was trained"
