"""How often intervals of the quality hold the truth: the table of docs/decisions/judging.md (``make coverage``).

A scan's error is its patient's, normal or log-normal; the number of a patient's scans says nothing of the error.
"""

import sys
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.quality_tables import interval

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SIGMA = 0.5
ERRORS: Mapping[str, tuple[Draw, float]] = {
    "normal": (lambda generator, patients: generator.normal(size=patients), 0.0),
    "log-normal": (lambda generator, patients: generator.lognormal(0, SIGMA, patients), float(np.exp(SIGMA**2 / 2))),
}
"""How a patient's error is drawn, and its mean."""
SCANS = {"1": 1, "1 to 4": 4}
PATIENTS = (2, 3, 6, 8, 12, 20)


def share_held(errors: str, patients: int, most_scans: int, studies: int) -> float:
    """Share of the studies whose interval holds the truth."""
    generator, (draw, truth) = np.random.default_rng(patients), ERRORS[errors]
    names, hits = np.arange(patients).astype(str), 0
    for _ in range(studies):
        scans = generator.integers(1, most_scans, patients, endpoint=True)
        values = pd.Series(np.repeat(draw(generator, patients), scans))
        low, high = interval(values, pd.Series(np.repeat(names, scans)))
        hits += low <= truth <= high
    return hits / studies


if __name__ == "__main__":
    print(f"| patients | scans of each | {' | '.join(ERRORS)} |\n| --: | --: | --: | --: |")
    for scans, most_scans in SCANS.items():
        for patients in PATIENTS:
            shares = [share_held(name, patients, most_scans, int([*sys.argv, "2000"][1])) for name in ERRORS]
            print(f"| {patients} | {scans} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |", flush=True)
