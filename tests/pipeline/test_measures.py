"""The table of measures: each record does what it says."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.quality.judge import judge
from pipeline.quality.measures import MEASURES, RANKED_BY, SLICE_MEASURES, names, shown_in
from pipeline.quality.scan import JudgedScan
from pipeline.quality.tissue import body
from tests.scans import chest


@pytest.fixture(scope="module")
def full() -> NDArray[np.int16]:
    """A chest with bone, so that it has each tissue."""
    hu = chest(2, 256)
    hu[:, 120:136, 120:136] = 700
    return hu


def test_the_full_dose_has_the_best_of_each_measure_and_noise_does_not(full: NDArray[np.int16]) -> None:
    inside = body(full)
    noise = np.random.default_rng(0).normal(10, 40, full.shape)
    best, noisy = (judge(JudgedScan(image, full, inside, (0.7, 0.7)))[0] for image in (full, 0.8 * full + noise))
    for measure in MEASURES:
        if measure.best is not None:
            assert best[measure.name] == pytest.approx(measure.best, abs=1e-6)
            assert not math.isclose(noisy[measure.name], measure.best, rel_tol=1e-3, abs_tol=1e-6)


def test_rows_have_the_measures_of_the_table(full: NDArray[np.int16]) -> None:
    scan, slices = judge(JudgedScan(full, full, body(full), (0.7, 0.7)))
    assert [list(row) for row in slices] == [names(SLICE_MEASURES)] * 2
    assert sorted(scan) == sorted([*names(MEASURES), "noise_blocks", "nps"])
    assert len(set(names(MEASURES))) == len(MEASURES)
    assert names(MEASURES)[0] == names(shown_in("summary"))[0] == RANKED_BY


def test_an_image_of_another_size_is_not_judged(full: NDArray[np.int16]) -> None:
    with pytest.raises(ValueError, match="must match the size"):
        JudgedScan(full[:, :9], full, body(full), (0.7, 0.7))
