"""Sentences on who wins: their numbers by hand, kinds of low dose apart, and nothing claimed that was not judged."""

from collections.abc import Mapping

import pandas as pd
import pytest

from pipeline.report.verdicts import verdicts_table

MANIFEST = pd.DataFrame(
    [("Mayo", "m1", "measured"), ("Mayo", "m2", "measured"), ("LIDC", "l1", "simulated"), ("NLST", "n1", "simulated")],
    columns=["dataset", "scan", "low_dose"],
).assign(state="kept")


def judged(errors: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Two slices a scan; ``errors``: mean RMSE in HU by model and scan."""
    datasets = dict(zip(MANIFEST["scan"], MANIFEST["dataset"], strict=True))
    return pd.DataFrame([
        {"model": model, "dataset": datasets[scan], "scan": scan, "slice": z, "rmse_hu": error + z - 0.5}
        for model, scans in errors.items() for scan, error in scans.items() for z in range(2)
    ])  # fmt: skip


def test_the_better_classical_denoiser_is_named_the_winner() -> None:
    errors = {"low-dose": {"m1": 30.0, "m2": 50.0}, "nlm": {"m1": 20.0, "m2": 30.0}, "tv": {"m1": 20.0, "m2": 29.6},
              "2d": {"m1": 40.0, "m2": 40.0}, "3d": {"m1": 29.6, "m2": 40.0}}  # fmt: skip
    (row,) = verdicts_table(judged(errors), MANIFEST).to_dict("records")
    assert row["verdict"] == (
        "On the test part of Mayo with measured low dose (2 scans, 4 slices) total variation removes 38.0 % of the "
        "input's RMSE, the best of 2 networks (3d) removes 13.0 % of the input's RMSE: total variation wins."
    )
    assert (row["winner"], row["network"], row["rmse_low_dose"]) == ("tv", "3d", 40)
    assert (row["rmse_classical"], row["rmse_network"]) == pytest.approx((24.8, 34.8))


def test_measured_and_simulated_low_dose_are_never_averaged_together() -> None:
    scans = list(MANIFEST["scan"])
    errors = {"low-dose": dict.fromkeys(scans, 40.0), "tv": dict.fromkeys(scans, 30.0),
              "2d": {"m1": 44.0, "m2": 44.0, "l1": 20.0, "n1": 28.0}}  # fmt: skip
    table = verdicts_table(judged(errors), MANIFEST)
    rows = table.set_index(["low_dose", "dataset"])
    assert list(rows.index) == [
        ("measured", "Mayo"), ("simulated", "all"), ("simulated", "LIDC"), ("simulated", "NLST"),
    ]  # fmt: skip
    assert "the network (2d) adds 10.0 % to the input's RMSE: total variation wins" in table["verdict"][0]
    assert table["verdict"][1].startswith("On the test part with simulated low dose (2 scans, 4 slices) ")
    assert rows["winner"].tolist() == ["tv", "2d", "2d", "2d"]
    assert rows.loc[("simulated", "all"), "rmse_network"] == pytest.approx(24)


def test_the_input_may_win_and_what_was_not_judged_is_said() -> None:
    worse = verdicts_table(judged({"low-dose": {"m1": 30.0}, "tv": {"m1": 33.0}, "2d": {"m1": 31.0}}), MANIFEST)
    assert worse["verdict"][0].endswith("the network (2d) adds 3.3 % to the input's RMSE: the input left alone wins.")
    idle = verdicts_table(judged({"low-dose": {"m1": 30.0}, "tv": {"m1": 33.0}, "2d": {"m1": 30.0}}), MANIFEST)
    assert idle["verdict"][0].endswith(
        "the network (2d) removes 0.0 % of the input's RMSE: the input left alone and the network are equally good."
    )
    assert idle["winner"][0] == "low-dose"
    single = judged({"low-dose": {"m1": 30.0}, "2d": {"m1": 15.0}}).query("slice == 0")
    assert "(1 scan, 1 slice) no classical" in verdicts_table(single, MANIFEST)["verdict"][0]
    alone = verdicts_table(judged({"low-dose": {"m1": 30.0}, "2d": {"m1": 15.0}}), MANIFEST)
    assert "no classical denoiser was judged, the network (2d) removes 50.0 % of" in alone["verdict"][0]
    assert "wins" not in alone["verdict"][0]
    classical = verdicts_table(judged({"low-dose": {"m1": 30.0}, "tv": {"m1": 15.0}}), MANIFEST)
    assert classical["verdict"][0].endswith("removes 50.0 % of the input's RMSE, no network was judged.")
    assert verdicts_table(judged({"2d": {"m1": 15.0}}), MANIFEST).empty
