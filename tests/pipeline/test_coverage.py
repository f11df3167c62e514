"""Intervals hold the truth as often as they say: a small part of ``make coverage``."""

import numpy as np
import pytest
from scipy.stats import binom

from tests.coverage import Design, Simulation, of_attribution, of_laws, of_projection, of_speed_up, of_variance
from tests.quality_coverage import share_held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulation", "design", "studies", "widest"),
    [
        (of_speed_up, Design((1, 8), 3), 200, 0.15),
        (of_speed_up, Design((1, 8), 5), 200, 0.08),
        (of_speed_up, Design((1, 8), 1, epochs=2), 200, 0.3),
        (of_speed_up, Design((1, 2, 4, 8), 3, is_disturbed=True), 200, 0.15),
        (of_laws, Design((1, 2, 4, 8), 3), 200, 5),
        (of_attribution, Design((4, 8, 16), 1), 100, 1.5),
        (of_attribution, Design((4, 8), 2), 100, 4),
        (of_attribution, Design((4, 8, 16), 3), 100, 3),
        (of_projection, Design((1, 4, 8, 16), 3, epochs=1), 20, 0.2),
        (of_variance, Design((1, 2, 4), 12), 200, np.nan),
    ],
)
def test_the_truth_lies_within(simulation: Simulation, design: Design, studies: int, widest: float) -> None:
    """Of an interval that holds 95 %, so few hold the truth in one of a thousand such tests."""
    fewest = binom.ppf(0.001, studies, 0.95) / studies
    for coverage in simulation(design, studies, np.random.default_rng(0)):
        assert coverage.share >= fewest, coverage
        assert not coverage.width > widest, coverage


@pytest.mark.parametrize(("patients", "most_scans"), [(3, 1), (6, 1), (6, 4)])
def test_the_truth_lies_within_the_interval_over_patients(patients: int, most_scans: int) -> None:
    assert share_held("normal", patients, most_scans, 200) >= binom.ppf(0.001, 200, 0.95) / 200
