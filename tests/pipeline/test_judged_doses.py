"""Judging and tables of several doses, and what a model file says of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import UserError
from data_prep.partners import FULL_DOSE
from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.evaluate.denoisers import identity, tune_classical
from pipeline.evaluate.judgement import evaluate
from pipeline.inference.trained_noise import describe_training, rows_at
from pipeline.report.doses import at_lowest, doses_table, split_by_dose
from pipeline.report.quality_tables import judged_table, quality_tables
from tests.pipeline.cells import cell
from tests.pipeline.doses import EVALUATE, SETTINGS, write_doses
from tests.pipeline.runs import SCAN_VALUES, SLICE_VALUES

PARTS: dict[Part, list[Segment]] = {"test": [Segment("toy", "a", 0, 8)], "validation": [Segment("toy", "a", 8, 24)]}


@pytest.mark.slow
def test_each_dose_is_judged_and_classical_denoisers_are_tuned_at_each(tmp_path: Path) -> None:
    noisy = SETTINGS.model_copy(update={"photons": 1e4})
    path = write_doses(tmp_path, noisy, slices=24, side=192, pixel=1.7)
    denoiser, strengths = tune_classical("tv", tmp_path, PARTS["validation"], EVALUATE)
    assert list(strengths) == [0.05, 0.25]
    assert strengths[0.05] > strengths[0.25]
    errors = {}
    for name, judged in (("low", identity(EVALUATE)), ("tv", denoiser)):
        errors[name] = evaluate(judged, tmp_path, PARTS, EVALUATE, tmp_path / name, lambda count, total, note: None)
    rows, scans = (json.loads((tmp_path / f"low{end}").read_text()) for end in (".json", ".scans.json"))
    assert [(row["dose"], row["slice"]) for row in rows] == [(dose, z) for dose in (0.05, 0.25) for z in range(8)]
    assert [(row["part"], row["dose"]) for row in scans] == [
        ("test", 0.05), ("test", 0.25), ("validation", 0.05), ("validation", 0.25)
    ]  # fmt: skip
    pair = Pair(path)
    full = pair.read(FULL_DOSE, 0, 8).astype(float)
    for row in scans[:2]:
        low = pair.read(f"low_dose_{row['dose']}_1", 0, 8)
        assert row["rmse_hu"] == pytest.approx(np.sqrt(np.mean((low - full) ** 2)))
    for dose in ("0.05", "0.25"):
        assert errors["tv"]["rmse_hu"][dose] < errors["low"]["rmse_hu"][dose]
    with pytest.raises(UserError, match=r"tv has no strength for measured low doses"):
        denoiser(pair.read(FULL_DOSE, 0, 1), None)


def test_tables_never_average_over_doses(tmp_path: Path) -> None:
    """Two doses with errors of 40 and 10 HU: each has its own rows, input and verdict."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "data").mkdir()
    manifest_row = {"dataset": "toy", "scan": "a", "subject": "p", "state": "kept", "low_dose": "simulated"}
    pd.DataFrame([manifest_row]).to_csv(tmp_path / "data" / "manifest.csv", index=False)
    for model, factor in (("low-dose", 1.0), ("tv", 0.8), ("2d", 0.5)):
        rows = [{"dataset": "toy", "scan": "a", "slice": z, "dose": dose, **SLICE_VALUES, "rmse_hu": factor * error + z}
                for dose, error in ((0.05, 40.0), (0.25, 10.0)) for z in (-1, 1)]  # fmt: skip
        (tmp_path / "evaluation" / f"{model}.json").write_text(json.dumps(rows))
        scans = [{"part": "test", "dataset": "toy", "scan": "a", "dose": dose, "slices": 2, "seconds": 1.0,
                  "noise_blocks": 4, **SCAN_VALUES, "rmse_hu": factor * error, "nps": [[0.1], [error]]}
                 for dose, error in ((0.05, 40.0), (0.25, 10.0))]  # fmt: skip
        (tmp_path / "evaluation" / f"{model}.scans.json").write_text(json.dumps(scans))
    judged = judged_table(tmp_path, ["low-dose", "tv", "2d"])
    tables = quality_tables(tmp_path, ["low-dose", "tv", "2d"], judged)
    quality = tables["quality"].set_index(["dose", "model"])
    assert quality["rmse_hu_mean"].to_dict() == {
        (0.05, "low-dose"): 40, (0.05, "tv"): 32, (0.05, "2d"): 20,
        (0.25, "low-dose"): 10, (0.25, "tv"): 8, (0.25, "2d"): 5,
    }  # fmt: skip
    assert quality["rmse_hu_scans"].equals(quality["rmse_hu_mean"])
    assert quality["rmse_change"].xs("2d", level="model").tolist() == [-0.5, -0.5]
    for name in ("quality_datasets", "quality_tests", "nps"):
        assert set(tables[name]["dose"]) == {0.05, 0.25}
    assert tables["nps"].set_index(["dose", "model"])["nps"][0.25, "tv"] == 10
    assert [text.split("(1 scan")[0] for text in tables["quality_verdicts"]["verdict"]] == [
        f"On the test part of toy with simulated low dose of {dose} % " for dose in (5, 25)
    ]
    doses = doses_table(tables["quality"], [cell(2, doses=0.25).model_copy(update={"id": "2d"})], (0.05, 0.25))
    assert doses[["model", "dose", "seen"]].to_numpy().tolist() == [
        ["low-dose", 0.05, "-"], ["low-dose", 0.25, "-"], ["tv", 0.05, "-"], ["tv", 0.25, "-"],
        ["2d", 0.05, "no"], ["2d", 0.25, "yes"],
    ]  # fmt: skip
    assert at_lowest(judged)["rmse_hu"].max() == 41
    single = tables["quality"][tables["quality"]["dose"] == 0.25]
    assert doses_table(single, [], (0.25,)).empty


@pytest.mark.parametrize(
    ("doses", "split"),
    [([0.25, 0.25], [0.25]), ([0.25, np.nan], [np.nan]), ([np.nan] * 2, [np.nan]), ([0.25, 0.1], [0.1, 0.25]),
     ([0.25, 0.1, np.nan], [0.1, 0.25, np.nan]), ([], [np.nan])],
)  # fmt: skip
def test_measured_scans_are_not_said_to_be_of_a_simulated_dose(doses: list[float], split: list[float]) -> None:
    parts = split_by_dose(pd.DataFrame({"dose": doses}, dtype=float))
    np.testing.assert_array_equal([dose for dose, _ in parts], split)
    assert sum(len(rows) for _, rows in parts) == len(doses)


def test_the_noise_of_a_training_is_that_of_its_doses() -> None:
    row = {"dataset": "d", "low_dose": "simulated", "kernel": "B", "noise_low_frequency": 0.4,
           "noise_low_z_correlation": 0.1}  # fmt: skip
    rows = [{**row, "scan": scan, "dose": dose, "noise_low_hu": sd, "noise_low_hu_low": 0.9 * sd,
             "noise_low_hu_high": 1.1 * sd} for scan in "ab" for dose, sd in ((0.1, 40.0), (0.4, 20.0))]  # fmt: skip
    assert describe_training(rows, 0.1)["SD (HU)"] == [18, 44]
    described = describe_training(rows_at(rows, [0.4]), 0.1)
    assert (described["SD (HU)"], described["dose"], described["scans"]) == ([18, 22], ["40 %"], "2 of 2 measured")
    assert describe_training(rows_at(rows, [0.025]), 0.1)["SD (HU)"] == [72, 88]  # a quarter of the dose, twice the SD
