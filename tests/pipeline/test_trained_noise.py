"""What a model says of the noise that it was trained on, and what is said of a scan with other noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.lowdose.scan_noise import ScanNoise
from pipeline.inference.trained_noise import as_text, compare, describe_training
from pipeline.report.tables import records

NOISE = ScanNoise(40.0, (36.0, 44.0), (0.0, 0.5), (1.0, 1.0), 0.38, (0.25, 0.06), (35.0, 45.0), 900)
ROWS = pd.DataFrame([
    {"subject": "patient-7", "scan": "s1", "kernel": "B40f", "low_dose": "simulated", "noise_low_hu": "35.5",
     "noise_low_frequency": "0.377", "noise_low_z_correlation": "0.05"},
    {"subject": "patient-8", "scan": "s2", "kernel": "STANDARD", "low_dose": "measured", "noise_low_hu": "74.25",
     "noise_low_frequency": "0.361", "noise_low_z_correlation": "0.16"},
    {"subject": "patient-9", "scan": "s3", "kernel": np.nan, "low_dose": "simulated", "noise_low_hu": np.nan,
     "noise_low_frequency": np.nan, "noise_low_z_correlation": np.nan},
])  # fmt: skip


def test_the_description_holds_ranges_doses_and_kernels_and_nobody() -> None:
    trained = describe_training(records(ROWS), 0.1)
    assert trained == {
        "SD (HU)": [35.5, 74.25], "mean frequency (cycles/mm)": [0.361, 0.377],
        "correlation of neighbouring slices": [0.05, 0.16], "dose": ["10 %", "measured"],
        "kernels": ["B40f", "STANDARD"], "scans": "2 of 3 measured",
    }  # fmt: skip
    text = as_text(trained)
    assert "SD (HU) 35.5 to 74.2; mean frequency (cycles/mm) 0.361 to 0.377;" in text
    assert "dose 10 %, measured; kernels B40f, STANDARD; scans 2 of 3 measured" in text
    unmeasured = describe_training(records(ROWS.iloc[2:]), 0.25)
    assert unmeasured == {"dose": ["25 %"], "kernels": ["unknown"], "scans": "0 of 1 measured"}


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({}, ""),
        ({"sd": 92.0}, ""),  # 74.25 HU x 1.25 is 92.8
        ({"sd": 95.0}, "SD (HU) 95, trained on 35.5 to 74.2"),
        ({"sd": 28.0}, "SD (HU) 28, trained on 35.5 to 74.2"),
        ({"centroid": 0.572}, "mean frequency (cycles/mm) 0.572, trained on 0.361 to 0.377"),
        ({"z_correlation": (0.33,)}, "correlation of neighbouring slices 0.33, trained on 0.05 to 0.16"),
        ({"z_correlation": ()}, ""),
    ],
)
def test_noise_outside_of_the_training_is_said_in_one_line(change: dict[str, Any], remark: str) -> None:
    line = compare(replace(NOISE, **change), describe_training(records(ROWS), 0.1))
    assert line == (remark and f"its noise is outside of what the model was trained on: {remark}")


def test_what_cannot_be_compared_is_said() -> None:
    assert compare(None, describe_training(records(ROWS), 0.1)).startswith("its noise could not be measured")
    for trained in ({}, describe_training(records(ROWS.iloc[2:]), 0.1)):
        assert compare(NOISE, trained) == "the model does not say on which noise it was trained"
