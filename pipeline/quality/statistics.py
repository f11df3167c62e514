"""How sure a figure is. What is independent are patients: not slices, and not scans of the same patient."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

LEAST_PATIENTS = 6
"""With five, no result of the test could fall below p = 0.06, and a bootstrap has next to nothing to draw from."""

DRAWS = 10_000
SEED = 0


def interval(values: "pd.Series[float]", patients: "pd.Series[str]") -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean over scans, drawn by patient; NaN with fewer than ``LEAST_PATIENTS``.

    Percentiles of ``DRAWS`` draws (Efron and Tibshirani 1993, chapter 13), always the same ones.
    """
    known = values.notna()
    groups = values[known].groupby(patients[known])
    sums, counts = groups.sum().to_numpy(np.float64), groups.count().to_numpy(np.float64)
    if len(sums) < LEAST_PATIENTS:
        return np.nan, np.nan
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(DRAWS, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


def paired_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, of one difference a patient; NaN with too few patients."""
    if len(differences) < LEAST_PATIENTS:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's correction for as many tests as there are numbers (Holm 1979); NaN stays NaN and does not count."""
    adjusted = np.full(len(p_values), np.nan)
    order = [place for place in np.argsort(p_values) if not np.isnan(p_values[place])]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted
