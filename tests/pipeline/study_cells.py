"""Tables of the trainings of a study, as the analysis reads them."""

import pandas as pd

SERIES = {"sampling": "grouped", "transfer": "zero", "epochs": 50, "work": "strong", "arm": "full", "batch": 1,
          "accumulation": 1, "rate_rule": "none", "precision": "float32", "device": "cpu", "torch": "2", "version": "0",
          "data": "d", "disturbed": "no", "left_out": False}  # fmt: skip


def cells(
    seconds: dict[int, float], slices: int = 16, alike: str = "x", state: str = "done", seed: int = 0, **columns: object
) -> pd.DataFrame:
    rows = [
        {"cell": f"3d-s{slices}-r{ranks}{f'-seed{seed}' if seed else ''}", "state": state, "network": "3d",
         "in_grid": True, "slices": slices, "ranks": ranks, **SERIES, "alike": alike, "seed": seed,
         "samples": 10, "training_seconds": value, **columns}
        for ranks, value in seconds.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def seeds(seconds: dict[int, float], count: int = 3) -> pd.DataFrame:
    return pd.concat([cells(seconds, seed=seed) for seed in range(count)], ignore_index=True)


def changed(table: pd.DataFrame, name: str, value: object, **changes: object) -> pd.DataFrame:
    """The table with these changes in the rows in which a column has a value."""
    rows = [dict(row) for row in table.to_dict("records")]
    for row in rows:
        row.update(changes if row[name] == value else {})
    return pd.DataFrame(rows)
