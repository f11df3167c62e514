"""Intervals and tests. Only patients are independent: neither slices are, nor scans of the same patient."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LEAST_PATIENTS = 6
"""With five, p cannot fall below 0.06, and a bootstrap has too few patients to draw from."""

DRAWS = 10_000
SEED = 0


def interval(values: "pd.Series[float]", patients: "pd.Series[str]") -> tuple[float, float]:
    """Bootstrap the 95 % interval of the mean over scans, by patient; NaN with fewer than ``LEAST_PATIENTS``.

    Percentiles of ``DRAWS`` draws (Efron and Tibshirani 1993, chapter 13) of a generator with a fixed seed.
    """
    present = values.notna()
    if patients[present].nunique() < LEAST_PATIENTS:
        return np.nan, np.nan
    groups = values[present].groupby(patients[present])
    sums, counts = groups.sum().to_numpy(np.float64), groups.count().to_numpy(np.float64)
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(DRAWS, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


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
