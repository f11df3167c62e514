"""Which network is worth its hours: made-up trainings with known errors and costs."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from pipeline.quality.measures import SCAN_MEASURES, names
from pipeline.report.networks import networks_table

GRID = {"slices": 1, "sampling": "window", "transfer": "none", "epochs": 1, "ranks": 1}


def training(cell: str, cpu_hours: float, **changes: Any) -> dict[str, Any]:
    times = {"training_seconds": 90.0, "validation_seconds": 5.0, "start_seconds": 3.0, "checkpoint_seconds": 2.0}
    return {"cell": cell, "state": "done", "arm": "full", "network": cell.partition("-")[0], "model": "ddnet",
            "dims": 2, **GRID, "alike": cell.partition("-seed")[0], "donor": "", "device": "cpu", **times,
            "cpu_seconds": 3600 * cpu_hours, "parameters": 10, "peak_bytes": 2**30, **changes}  # fmt: skip


def table_of(
    trainings: list[dict[str, Any]], errors: dict[str, list[float]], trials: tuple[tuple[str, float], ...] = ()
) -> pd.DataFrame:
    """Judge each model on the slices of one scan."""
    slices = pd.DataFrame([{"model": model, "rmse_hu": rmse} for model, rows in errors.items() for rmse in rows])
    scans = [{"model": model, "part": "test", **dict.fromkeys(names(SCAN_MEASURES), 1.0)} for model in errors]
    searched = pd.DataFrame([(*trial, 9.0) for trial in trials], columns=["network", "cpu_hours", "hours"])
    table = networks_table(pd.DataFrame(trainings), slices, pd.DataFrame(scans), dict.fromkeys(errors, 100.0), searched)
    return table.set_index("network")


INPUT = {"low-dose": [30.0, 50.0]}


def test_errors_are_shares_of_the_input_s_with_an_interval_over_seeds() -> None:
    trainings = [training("a-r1", 1.0), training("a-r1-seed1", 3.0), training("b", 9.0)]
    table = table_of(trainings, {**INPUT, "a-r1": [10.0, 30.0], "a-r1-seed1": [30.0, 30.0], "b": [40.0]})
    row = table.loc["a"]
    half = student.ppf(0.975, 1) * np.std([0.5, 0.75], ddof=1) / np.sqrt(2)
    assert (row["error"], row["seeds"], row["hours"]) == (0.625, 2, 2.0)
    assert (row["error_low"], row["error_high"]) == pytest.approx((0.625 - half, 0.625 + half))
    assert row["slice_ms"] == 100
    assert table.loc["b", ["error_low", "error_high"]].isna().all()
    assert (table.loc["low-dose", "error"], table.loc["low-dose", "total_hours"]) == (1, 0)


def test_a_transfer_costs_the_hours_of_its_donor_too() -> None:
    deep = {"dims": 3, "slices": 16, "transfer": "zero", "donor": "a"}
    trainings = [training("a", 2.0), training("c-s16-r1", 1.0, **deep)]
    errors = {**INPUT, "a": [20.0], "c-s16-r1": [19.0]}
    table = table_of(trainings, errors)
    assert table[["hours", "donor_hours", "total_hours"]].T["c"].tolist() == [1, 2, 3]
    assert table[["hours", "donor_hours", "total_hours"]].T["a"].tolist() == [2, 0, 2]
    assert table.loc["c", "title"] == "3D-DDnet"


def test_a_search_costs_the_hours_of_all_trials_also_those_of_the_donor() -> None:
    deep = {"dims": 3, "slices": 16, "transfer": "zero", "donor": "a"}
    trainings = [training("a", 2.0), training("c-s16-r1", 1.0, **deep), training("c-s16-r1-none", 1.0, dims=3)]
    errors = {**INPUT, "a": [20.0], "c-s16-r1": [19.0], "c-s16-r1-none": [21.0]}
    table = table_of(trainings, errors, (("a", 0.5), ("a", 0.25), ("c", 4.0), ("b", 7.0))).set_index("cell")
    assert table["search_hours"].iloc[1:].to_dict() == {"a": 0.75, "c-s16-r1": 4.75, "c-s16-r1-none": 4.0}
    assert table["total_hours"]["c-s16-r1"] == 1 + 2 + 4.75


def test_the_front_holds_what_nothing_beats_in_both_error_and_hours() -> None:
    hours = {"cheap": 1.0, "dear": 4.0, "beaten": 5.0, "classic": 0.5}
    errors = {"cheap": [20.0], "dear": [10.0], "beaten": [12.0], "classic": [32.0], "tv": [30.0]}
    table = table_of([training(name, hours[name]) for name in hours], {**INPUT, **errors})
    assert table["on_front"].to_dict() == {
        "low-dose": False, "tv": True, "cheap": True, "dear": True, "beaten": False, "classic": False
    }  # fmt: skip


def test_hours_of_gpus_and_cpus_are_not_compared() -> None:
    gpu = training("g", 0.0, device="A100", ranks=2)
    table = table_of([training("a", 0.1), gpu], {**INPUT, "a": [20.0], "g": [25.0]})
    assert table[["hours_of", "total_hours", "on_front"]].T["g"].tolist() == ["GPU", 2 * 100 / 3600, True]


def test_without_the_input_there_is_nothing_to_compare_with() -> None:
    assert table_of([training("a", 1.0)], {"a": [1.0]}).empty


def test_what_a_donor_took_is_unknown_where_its_training_failed() -> None:
    """The costs of the network are then unknown too, and nothing says that no other beats it."""
    deep = {"dims": 3, "slices": 16, "transfer": "zero", "donor": "a"}
    trainings = [training("a", 2.0, state="failed"), training("c-s16-r1", 1.0, **deep)]
    row = table_of(trainings, {**INPUT, "c-s16-r1": [1.0]}).loc["c"]
    assert row["hours"] == 1
    assert row[["donor_hours", "total_hours"]].isna().all()
    assert not row["on_front"]
