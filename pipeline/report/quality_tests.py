"""Statistical tests of denoisers against each other."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.quality.measures import names, shown_in
from pipeline.quality.statistics import LEAST_PATIENTS, holm, paired_test

_SIGNIFICANT = 0.05


def tests_table(scans: pd.DataFrame) -> pd.DataFrame:
    """Test each pair of models by each tested measure, on the part ``test``; a row a test.

    Paired by patient, and corrected after Holm within a measure. ``difference``: mean over patients of the first
    model's measure minus the second's.
    """
    tested, columns = scans[scans["part"] == "test"], names(shown_in("tests"))
    means = tested.groupby(["patient", "model"])[columns].mean()
    models = list(dict.fromkeys(tested["model"]))
    return pd.concat([_test_pairs(means[name].unstack("model"), name, models) for name in columns], ignore_index=True)


def _test_pairs(values: pd.DataFrame, measure: str, models: Sequence[str]) -> pd.DataFrame:
    columns = values[[*models]].to_numpy(np.float64).T  # 200 networks are 19,900 pairs
    rows = [
        {"metric": measure, "first": first, "second": second, **_test_pair(a - b)}
        for (first, a), (second, b) in combinations(zip(models, columns, strict=True), 2)
    ]
    table = pd.DataFrame(rows, columns=["metric", "first", "second", "patients", "difference", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    words = np.where(table["p_holm"] < _SIGNIFICANT, "differ", "no difference shown")
    table["verdict"] = np.where(table["p"].isna(), f"not testable: fewer than {LEAST_PATIENTS} patients", words)
    return table


def _test_pair(differences: NDArray[np.float64]) -> Mapping[str, Any]:
    differences = differences[np.isfinite(differences)]
    return {"patients": len(differences), "difference": differences.mean() if len(differences) else np.nan,
            "p": paired_test(differences)}  # fmt: skip
