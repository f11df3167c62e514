"""Judging scans: what is interrupted goes on, and the classical denoiser does what it should."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage.restoration import denoise_tv_chambolle

from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.config import EvaluateSettings
from pipeline.evaluate import Denoiser, classical, evaluate, input_itself
from pipeline.quality.classical import STRENGTHS, choose_strength

HOW = EvaluateSettings(device="cpu", threads=1)


def untold(done: int, total: int, note: str) -> None:
    pass


@pytest.fixture
def data(make_pair: Callable[..., Path]) -> Path:
    for number, scan in enumerate("abc"):
        make_pair(scan, slices=4, side=192, seed=number)
    return make_pair("v", slices=4, side=192, seed=9)


PARTS: dict[Part, list[Segment]] = {
    "test": [Segment("toy", scan, 1, 4) for scan in "abc"],
    "validation": [Segment("toy", "v", 0, 4)],
}


def test_what_is_interrupted_goes_on_with_the_next_scan(data: Path, tmp_path: Path) -> None:
    seen = []

    def counting(failing: int) -> Denoiser:
        def denoiser(low: np.ndarray) -> np.ndarray:
            seen.append(len(low))
            if len(seen) == failing:
                raise KeyboardInterrupt
            return low

        return denoiser

    with pytest.raises(KeyboardInterrupt):
        evaluate(counting(3), data, PARTS, HOW, tmp_path / "m", untold)
    assert not (tmp_path / "m.json").exists()
    evaluate(counting(0), data, PARTS, HOW, tmp_path / "m", untold)
    assert len(seen) == 3 + 2
    assert not (tmp_path / "m").exists()
    result = evaluate(input_itself(HOW), data, PARTS, HOW, tmp_path / "whole", untold)
    for ending in (".json", ".scans.json"):
        assert (tmp_path / f"m{ending}").read_text() == (tmp_path / f"whole{ending}").read_text()
    slices, scans = (json.loads((tmp_path / f"whole{ending}").read_text()) for ending in (".json", ".scans.json"))
    assert [(row["scan"], row["slice"]) for row in slices] == [(scan, z) for scan in "abc" for z in (1, 2, 3)]
    assert [(row["part"], row["scan"], row["slices"]) for row in scans] == [
        ("test", "a", 3), ("test", "b", 3), ("test", "c", 3), ("validation", "v", 4),
    ]  # fmt: skip
    assert result["slices"] == 9


def test_a_scans_row_says_what_was_done_to_it(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """Noise of 40 HU, as it was put there."""
    data = make_pair(slices=3, side=512)
    evaluate(input_itself(HOW), data, {"test": [Segment("toy", "a", 0, 3)]}, HOW, tmp_path / "m", untold)
    row = json.loads((tmp_path / "m.scans.json").read_text())[0]
    assert row["noise_sd"] == pytest.approx(40, rel=0.03)
    assert row["sharpness"] == pytest.approx(1, abs=0.02)
    assert row["bias_soft"] == pytest.approx(0, abs=0.5)
    assert row["bias_bone"] is None
    assert np.mean(row["nps"][1]) == pytest.approx(40**2 * 0.7**2, rel=0.1)  # spacing from the pair
    assert row["ms_ssim_3d"] < 1


def test_the_classical_strength_is_that_of_least_error_on_the_validation_part(data: Path, tmp_path: Path) -> None:
    denoiser, strength = classical(data, PARTS["validation"], HOW)
    pair = Pair(data / "toy" / "v.zarr")
    low, full = (pair.read(name).astype(float) for name in ("low_dose", "full_dose"))
    errors = {weight: np.mean((denoise_tv_chambolle(low, weight=weight, channel_axis=0) - full) ** 2)
              for weight in STRENGTHS}  # fmt: skip
    assert strength == min(errors, key=lambda weight: errors[weight])
    assert STRENGTHS[0] < strength < STRENGTHS[-1]
    ours = evaluate(denoiser, data, PARTS, HOW, tmp_path / "tv", untold)
    theirs = evaluate(input_itself(HOW), data, PARTS, HOW, tmp_path / "low", untold)
    assert ours["rmse_hu"] < 0.5 * theirs["rmse_hu"]


def test_a_clean_scan_is_denoised_least() -> None:
    image = np.random.default_rng(0).integers(-1000, 1000, (64, 64)).astype(np.int16)
    assert choose_strength([(image, image)]) == STRENGTHS[0]
