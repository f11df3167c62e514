"""Tests. Only patients are independent: neither slices are, nor scans of the same patient."""

import numpy as np
from numpy.typing import NDArray

LEAST_PATIENTS = 6
"""Of a test: with five, p cannot fall below 0.06."""


def paired_test(differences: NDArray[np.float64]) -> float:
    """Compute the two-sided p of Wilcoxon's signed-rank test from a difference a patient; NaN with too few patients."""
    if len(differences) < LEAST_PATIENTS:
        return np.nan
    from scipy.stats import wilcoxon  # a second of a core, which reports of few patients are spared

    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number after Holm (1979); NaN stays NaN and does not count as a test."""
    adjusted = np.full(len(p_values), np.nan)
    order = [index for index in np.argsort(p_values) if not np.isnan(p_values[index])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted
