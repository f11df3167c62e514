"""The table of measures: each record does what it says."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.quality.anatomy import survey
from pipeline.quality.judge import judge
from pipeline.quality.measures import MEASURES, RANKED_BY, SLAB_MEASURES, SLICE_MEASURES, names, shown_in
from pipeline.quality.scan import JudgedScan, scan_on
from pipeline.quality.tissue import body
from tests.pipeline.kernels import needs_triton
from tests.scans import chest


@pytest.fixture(scope="module")
def full() -> NDArray[np.int16]:
    """A chest with bone, so that it has each tissue."""
    hu = chest(2, 256)
    hu[:, 120:136, 120:136] = 700
    return hu


def judged(image: NDArray[np.generic], full: NDArray[np.int16]) -> JudgedScan:
    return scan_on(torch.device("cpu"), image, full, survey(full, body(full)), (0.7, 0.7))


def test_the_full_dose_has_the_best_of_each_measure_and_noise_does_not(full: NDArray[np.int16]) -> None:
    noise = np.random.default_rng(0).normal(10, 40, full.shape)
    best, noisy = (judge(judged(image, full))[0] for image in (full, 0.8 * full + noise))
    for measure in MEASURES:
        if measure.best is not None:
            assert best[measure.name] == pytest.approx(measure.best, abs=1e-6)
            assert not math.isclose(noisy[measure.name], measure.best, rel_tol=1e-3, abs_tol=1e-6)


def test_rows_have_the_measures_of_the_table(full: NDArray[np.int16]) -> None:
    scan, slices = judge(judged(full, full))
    assert [list(row) for row in slices] == [names(SLICE_MEASURES)] * 2
    assert sorted(scan) == sorted([*names(MEASURES), "noise_blocks", "nps"])
    assert len(set(names(MEASURES))) == len(MEASURES)
    assert names(MEASURES)[0] == names(shown_in("summary"))[0] == RANKED_BY


def test_an_image_of_another_size_is_not_judged(full: NDArray[np.int16]) -> None:
    with pytest.raises(ValueError, match="must match the size"):
        judged(full[:, :9], full)


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests of GPUs compare both devices")
def test_kernels_measure_as_torchs_operators_do(full: NDArray[np.int16]) -> None:
    cut = full[:, 100:133, 100:140]
    image = np.rint(cut + np.random.default_rng(0).normal(0, 40, cut.shape)).astype(np.int16)
    expected, expected_slices = judge(judged(image, cut))
    with kernels_on_all_devices():
        row, slices = judge(judged(image, cut))
    for name in names([*SLICE_MEASURES, *SLAB_MEASURES]):
        assert row[name] == pytest.approx(expected[name], rel=1e-5)
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in zip(slices, expected_slices, strict=True))
