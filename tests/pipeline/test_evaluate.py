"""Judging scans: what is interrupted goes on, and the classical denoiser does what it should."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.evaluate.denoisers import Denoiser, identity, tune_classical
from pipeline.evaluate.judgement import evaluate
from pipeline.quality import scan as judged_scan
from pipeline.quality.classical import CLASSICAL, Classical, choose_strength, non_local_means, total_variation
from pipeline.quality.noise_power import Noise, noise
from pipeline.settings.names import CLASSICAL_TITLES, ClassicalName
from pipeline.settings.run import EvaluateSettings
from tests.scans import chest

HOW = EvaluateSettings(device="cpu", threads=1)


def ignore_progress(count: int, total: int, note: str) -> None:
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
        def denoiser(low: np.ndarray, dose: float | None) -> np.ndarray:
            seen.append(len(low))
            if len(seen) == failing:
                raise KeyboardInterrupt
            return low

        return denoiser

    with pytest.raises(KeyboardInterrupt):
        evaluate(counting(3), data, PARTS, HOW, tmp_path / "m", ignore_progress)
    assert not (tmp_path / "m.json").exists()
    evaluate(counting(0), data, PARTS, HOW, tmp_path / "m", ignore_progress)
    assert len(seen) == 3 + 2
    assert not (tmp_path / "m").exists()
    result = evaluate(identity(HOW), data, PARTS, HOW, tmp_path / "whole", ignore_progress)
    for ending in (".json", ".scans.json"):
        assert (tmp_path / f"m{ending}").read_text() == (tmp_path / f"whole{ending}").read_text()
    slices, scans = (json.loads((tmp_path / f"whole{ending}").read_text()) for ending in (".json", ".scans.json"))
    assert [(row["scan"], row["slice"]) for row in slices] == [(scan, z) for scan in "abc" for z in (1, 2, 3)]
    assert [(row["part"], row["scan"], row["slices"]) for row in scans] == [
        ("test", "a", 3), ("test", "b", 3), ("test", "c", 3), ("validation", "v", 4),
    ]  # fmt: skip
    assert result["slices"] == 9


def test_scans_are_judged_at_once_as_they_are_one_by_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the four could go on if not beside another one."""
    evaluate(identity(HOW), data, PARTS, HOW, tmp_path / "one", ignore_progress)
    meeting, reports = threading.Barrier(2), list[tuple[int, int]]()

    def meet_and_measure(*scan: Any) -> Noise:
        meeting.wait(timeout=60)
        return noise(*scan)

    monkeypatch.setattr(judged_scan, "noise", meet_and_measure)
    two = HOW.model_copy(update={"threads": 2})
    evaluate(identity(two), data, PARTS, two, tmp_path / "two", lambda count, total, _: reports.append((count, total)))
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for ending in (".json", ".scans.json", ".npz"):
        assert (tmp_path / f"two{ending}").read_bytes() == (tmp_path / f"one{ending}").read_bytes()


def test_no_more_scans_are_in_memory_than_there_are_threads(data: Path, tmp_path: Path) -> None:
    """And the network keeps its threads while scans are judged by one each."""
    two, written_at_start, threads = HOW.model_copy(update={"threads": 2}), list[int](), set[int]()

    def denoiser(low: np.ndarray, dose: float | None) -> np.ndarray:
        written_at_start.append(len(list((tmp_path / "m").rglob("*.json"))))
        threads.add(torch.get_num_threads())
        return low

    evaluate(denoiser, data, PARTS, two, tmp_path / "m", ignore_progress)
    assert all(number - written <= 1 for number, written in enumerate(written_at_start))
    assert threads == {2}


def test_what_goes_wrong_in_judging_a_scan_is_told_and_the_others_are_kept(data: Path, tmp_path: Path) -> None:
    two, calls = HOW.model_copy(update={"threads": 2}), list[int]()

    def denoiser(low: np.ndarray, dose: float | None) -> np.ndarray:
        calls.append(len(low))
        return low[:, :9] if len(calls) == 2 else low

    with pytest.raises(ValueError, match="must match the size"):
        evaluate(denoiser, data, PARTS, two, tmp_path / "m", ignore_progress)
    assert (tmp_path / "m" / "test" / "toy" / "a.json").exists()
    assert not (tmp_path / "m" / "test" / "toy" / "b.json").exists()


def test_a_lung_that_the_crop_cuts_open_is_still_lung(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    settings = EvaluateSettings(device="cpu", threads=1, crop=192)
    data = make_pair(slices=2, side=512)
    parts: dict[Part, list[Segment]] = {"test": [Segment("toy", "a", 0, 2)]}
    evaluate(
        lambda low, dose: identity(settings)(low, dose) + 7, data, parts, settings, tmp_path / "m", ignore_progress
    )
    row = json.loads((tmp_path / "m.scans.json").read_text())[0]
    assert row["bias_lung"] == pytest.approx(7.5, abs=0.3)  # the toy's low dose is cut to whole HU towards 0


def test_a_scans_row_says_what_was_done_to_it(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """Noise of 40 HU, as it was put there."""
    data = make_pair(slices=3, side=512)
    evaluate(identity(HOW), data, {"test": [Segment("toy", "a", 0, 3)]}, HOW, tmp_path / "m", ignore_progress)
    row = json.loads((tmp_path / "m.scans.json").read_text())[0]
    assert row["noise_sd"] == pytest.approx(40, rel=0.03)
    assert row["sharpness"] == pytest.approx(1, abs=0.02)
    assert row["bias_soft"] == pytest.approx(0, abs=0.5)
    assert row["bias_bone"] is None
    assert np.mean(row["nps"][1]) == pytest.approx(40**2 * 0.7**2, rel=0.1)  # spacing from the pair
    assert row["ms_ssim_3d"] < 1


def test_the_classical_strength_is_that_of_least_error_on_the_validation_part(data: Path, tmp_path: Path) -> None:
    denoiser, strengths = tune_classical("tv", data, PARTS["validation"], HOW)
    (strength,) = strengths.values()
    pair = Pair(data / "toy" / "v.zarr")
    low, full = (pair.read(name).astype(float) for name in ("low_dose", "full_dose"))
    errors = {weight: np.mean((denoise_tv_chambolle(low, weight=weight, channel_axis=0) - full) ** 2)
              for weight in CLASSICAL["tv"].strengths}  # fmt: skip
    assert strength == min(errors, key=lambda weight: errors[weight])
    assert CLASSICAL["tv"].strengths[0] < strength < CLASSICAL["tv"].strengths[-1]
    ours = evaluate(denoiser, data, PARTS, HOW, tmp_path / "tv", ignore_progress)
    theirs = evaluate(identity(HOW), data, PARTS, HOW, tmp_path / "low", ignore_progress)
    assert ours["rmse_hu"] < 0.5 * theirs["rmse_hu"]


def test_slices_that_threads_share_are_the_same() -> None:
    low = np.random.default_rng(0).integers(-1000, 1000, (5, 16, 16)).astype(np.int16)
    expected = np.stack([denoise_tv_chambolle(plane.astype(np.float32), weight=40.0) for plane in low])
    np.testing.assert_array_equal(total_variation(low, 40.0, threads=3), expected)


def test_non_local_means_average_alike_patches_of_all_slices_and_slabs_do_not_show() -> None:
    """Two levels with noise of 20 HU, against the library on the whole volume, whose sums round otherwise."""
    level = np.where(np.arange(24) < 12, 0, 400)
    noise = np.random.default_rng(0).normal(0, 20, (40, 12, 24))
    low = (level + noise).round().astype(np.int16)
    image = non_local_means(low, 20.0, threads=2)
    reference = denoise_nl_means(low.astype(np.float32), 5, 3, h=12.0, sigma=20.0, fast_mode=True)
    np.testing.assert_allclose(image, reference, atol=0.05)
    assert (image - level).std() < 0.3 * 20
    np.testing.assert_array_equal(image, non_local_means(low, 20.0))


def test_every_classical_denoiser_has_a_name_for_settings_and_people() -> None:
    assert list(CLASSICAL) == list(get_args(ClassicalName)) == list(CLASSICAL_TITLES)


def test_a_clean_scan_is_denoised_least() -> None:
    image = np.random.default_rng(0).integers(-1000, 1000, (64, 64)).astype(np.int16)
    for method in CLASSICAL.values():
        assert choose_strength(method, [(image[None], image[None])]) <= method.strengths[0]


@pytest.mark.slow
@pytest.mark.parametrize("sd", [5, 200])
def test_noise_beyond_the_usual_strengths_is_denoised_as_well_as_can_be(sd: float) -> None:
    full = chest(4, 96).astype(np.float64)
    low = (full + np.random.default_rng(0).normal(0, sd, full.shape)).round().astype(np.int16)

    def error(method: Classical, strength: float) -> float:
        return float(np.square(method.denoise(low, strength, 1) - full).mean())

    for name, method in CLASSICAL.items():
        strength = choose_strength(method, [(low, full.astype(np.int16))])
        assert not method.strengths[0] <= strength <= method.strengths[-1], name
        assert error(method, strength) < min(error(method, strength / 2), error(method, strength * 2))
