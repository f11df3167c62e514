"""Speed-up, laws and transfer of a study, against closed forms."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind

from pipeline.scaling.analysis import speed_up, steps_to_2d, unlike
from pipeline.scaling.estimates import block_count
from pipeline.scaling.laws import laws
from tests.pipeline.study_cells import cells, changed, seeds

NO_EPOCHS = pd.DataFrame(columns=["cell", "epoch", "seconds", "samples"])


def epochs(seconds: dict[int, float], spread: float = 0.0, seeds: int = 3, slices: int = 16) -> pd.DataFrame:
    """Four epochs of each seed, with a normal spread of so large a share."""
    generator, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for row in cells(seconds, slices, seed=seed).to_dict("records"):
            times = row["training_seconds"] / 10 * (1 + spread * generator.standard_normal(4))
            rows += [
                {"cell": row["cell"], "epoch": epoch, "seconds": time, "samples": 1} for epoch, time in enumerate(times)
            ]
    return pd.DataFrame(rows)


def amdahl(serial: float) -> dict[int, float]:
    return {n: 100 * (serial + (1 - serial) / n) for n in (1, 2, 4, 8)}


def test_ideal_scaling() -> None:
    table = speed_up(cells({n: 100 / n for n in (1, 2, 4, 8)}), NO_EPOCHS)
    assert table["speed_up"].tolist() == pytest.approx([1, 2, 4, 8])
    assert table["efficiency"].tolist() == pytest.approx([1] * 4)
    assert set(table["timing"]) == {"whole training: too short to leave the start out"}


def test_amdahls_law_with_a_known_serial_fraction() -> None:
    table = speed_up(cells(amdahl(0.1)), NO_EPOCHS)
    assert table["speed_up"].tolist() == pytest.approx([1 / (0.1 + 0.9 / n) for n in (1, 2, 4, 8)])


def test_the_papers_own_table_for_16_slices() -> None:
    seconds: dict[int, float] = {1: 10 * 3600 + 31 * 60 + 3, 2: 5 * 3600 + 24 * 60 + 7, 4: 3 * 3600 + 8 * 60 + 17}
    table = speed_up(cells(seconds), NO_EPOCHS)
    assert table["speed_up"].round(2).tolist() == [1, 1.95, 3.35]
    assert (100 * table["efficiency"]).round().tolist() == [100, 97, 84]


def test_without_one_rank_the_fewest_are_the_baseline() -> None:
    table = speed_up(cells({2: 50, 4: 25}, slices=32), NO_EPOCHS)
    assert table["baseline"].tolist() == ["3d-s32-r2"] * 2
    assert table["baseline_ranks"].tolist() == [2, 2]
    assert table["speed_up"].tolist() == pytest.approx([1, 2])  # against two ranks, not one
    assert table["efficiency"].tolist() == pytest.approx([1, 1])


def test_unlike_failed_and_control_cells_are_not_compared() -> None:
    parts = [cells({1: 100}), cells({2: 10}, alike="y", torch="3"), cells({4: 1.0}, state="failed"),
             cells({8: 1.0}, arm="silent")]  # fmt: skip
    mixed = pd.concat(parts, ignore_index=True)
    table = speed_up(mixed, NO_EPOCHS)
    assert table["speed_up"].tolist() == pytest.approx([1, 1])  # each its own baseline
    assert set(table["cell"]) == {"3d-s16-r1", "3d-s16-r2"}
    assert speed_up(cells({1: 1.0}, state="failed"), NO_EPOCHS).empty
    named = unlike(mixed)
    assert named[["what", "value", "cells"]].to_numpy().tolist() == [
        ["torch", "2", "3d-s16-r1"], ["torch", "3", "3d-s16-r2"]
    ]  # fmt: skip


def test_time_is_that_of_a_sample() -> None:
    table = cells({1: 100, 8: 13})
    table["samples"] = [100, 104]
    assert speed_up(table, NO_EPOCHS)["speed_up"].tolist() == pytest.approx([1, 8.0])


def test_warm_epochs_of_all_seeds_are_one_point_with_an_interval() -> None:
    """Welch's interval (scipy) of the difference of the logarithms of the seeds' means."""
    seconds = amdahl(0.1)
    table = speed_up(seeds(seconds, 5), epochs(seconds, spread=0.02, seeds=5)).set_index("ranks")
    assert table["seeds"].tolist() == [5] * 4
    assert set(table["timing"]) == {"warm steps"}
    assert table["speed_up"][4] == pytest.approx(1 / (0.1 + 0.9 / 4), rel=0.02)
    means = epochs(seconds, spread=0.02, seeds=5).groupby("cell")["seconds"].mean()
    logs = {ranks: np.log(means[cells_on(ranks, 5)].to_numpy(float)) for ranks in (1, 4)}
    test = ttest_ind(logs[1], logs[4], equal_var=False)
    welch = test.confidence_interval()
    assert 5 < test.df < 8  # the freedom of either alone would be 4
    assert table["speed_up_low"][4] == pytest.approx(np.exp(welch.low), rel=1e-3)
    assert table["speed_up_high"][4] == pytest.approx(np.exp(welch.high), rel=1e-3)
    assert table["efficiency_low"][4] == pytest.approx(table["speed_up_low"][4] / 4)
    assert np.isnan(table["speed_up_low"][1])
    assert table["interval_over"].tolist() == ["", *["5 seeds of 4 epochs"] * 3]


def cells_on(ranks: int, seeds: int) -> list[str]:
    return [f"3d-s16-r{ranks}", *(f"3d-s16-r{ranks}-seed{seed}" for seed in range(1, seeds))]


def test_two_epochs_of_one_seed_give_no_narrow_interval() -> None:
    """Student's factor is 4 to 13 with one or two degrees of freedom."""
    generator, rows = np.random.default_rng(0), []
    for row in cells({1: 10, 2: 5}).to_dict("records"):
        times = row["training_seconds"] * (1 + 0.01 * generator.standard_normal(2))
        rows += [{"cell": row["cell"], "seconds": time, "samples": 1} for time in times]
    steps = pd.DataFrame(rows)
    table = speed_up(cells({1: 10, 2: 5}), steps).set_index("ranks")
    grouped = steps.groupby("cell")["seconds"]
    error = float(np.sqrt((grouped.var() / grouped.mean() ** 2 / 2).sum()))
    assert np.log(table["speed_up_high"][2] / table["speed_up_low"][2]) > 2 * 4.3 * error
    assert table["interval_over"][2] == "2 epochs of one seed"
    alone = speed_up(cells({1: 10, 2: 5}), steps.drop_duplicates("cell")).set_index("ranks")
    assert np.isnan(alone["speed_up_low"][2])
    assert alone["interval_over"][2] == "nothing: one training, with nothing to repeat"


def test_epochs_count_by_their_samples() -> None:
    """Of a first epoch the cold steps are left out: it has fewer samples, and so less weight."""
    steps = pd.DataFrame([("3d-s16-r1", 30.0, 10), ("3d-s16-r1", 90.0, 90), ("3d-s16-r2", 50.0, 100)],
                         columns=["cell", "seconds", "samples"])  # fmt: skip
    table = speed_up(cells({1: 10, 2: 5}), steps)
    assert table["seconds_a_sample"].tolist() == pytest.approx([1.2, 0.5])


def test_seeds_count_by_their_samples_and_their_spread_is_of_a_sample() -> None:
    """Three epochs of one seed and one of another, a tenth slower; the single training on two ranks differs as they."""
    times = {"3d-s16-r1": [10.0] * 3, "3d-s16-r1-seed1": [11.0], "3d-s16-r2": [5.0]}
    steps = pd.DataFrame([{"cell": cell, "seconds": seconds, "samples": 10}
                          for cell, epochs in times.items() for seconds in epochs])  # fmt: skip
    table = speed_up(pd.concat([seeds({1: 99.0}, 2), cells({2: 99.0})]), steps).set_index("ranks")
    assert table["seconds_a_sample"].tolist() == pytest.approx([41 / 40, 0.5])
    half = student.ppf(0.975, 1) * np.std(np.log([1, 1.1]), ddof=1) * np.sqrt(1 / 2 + 1)
    assert np.log(table["speed_up_high"][2] / table["speed_up_low"][2]) == pytest.approx(2 * half)


def test_one_training_without_warm_steps_has_all_of_its_series_timed_whole() -> None:
    """Warm steps against a whole training would be a speed-up of its own."""
    steps = epochs({1: 20.0, 2: 20.0}, seeds=1)
    table = speed_up(cells({1: 8.0, 2: 4.0, 4: 2.0}), steps)
    assert set(table["timing"]) == {"whole training: too short to leave the start out"}
    assert table["speed_up"].tolist() == pytest.approx([1, 2, 4])


def test_a_disturbed_training_is_marked_and_left_out_of_baseline_and_laws() -> None:
    seconds = amdahl(0.1)
    table = changed(seeds(seconds), "ranks", 1, disturbed="yes", left_out=True)
    speed = speed_up(table, epochs(seconds)).set_index("ranks")
    assert set(speed["baseline_ranks"]) == {2}
    assert speed["speed_up"][2] == 1
    assert speed["speed_up"][1] == pytest.approx((0.1 + 0.9 / 2) / 1)
    assert speed["disturbed"].tolist() == ["3d-s16-r1 3d-s16-r1-seed1 3d-s16-r1-seed2", "", "", ""]
    assert set(speed["reason"]) == {"left out, as disturbed: 3d-s16-r1 3d-s16-r1-seed1 3d-s16-r1-seed2"}
    (row,) = laws(table, epochs(seconds)).to_dict("records")
    assert row["reason"] == (
        "the fewest ranks are 2: one rank is needed; left out, as disturbed: 3d-s16-r1 3d-s16-r1-seed1 3d-s16-r1-seed2"
    )
    included = speed_up(table.assign(left_out=False), epochs(seconds)).set_index("ranks")
    assert included["speed_up"][2] == pytest.approx(1 / 0.55)
    assert included["disturbed"][1].startswith("3d-s16-r1 ")


def test_of_several_seeds_only_the_disturbed_is_left_out() -> None:
    third = {"training_seconds": 99.0, "disturbed": "yes", "left_out": True}
    table = changed(seeds({1: 10.0, 2: 5.0}), "cell", "3d-s16-r1-seed2", **third)
    speed = speed_up(table, NO_EPOCHS).set_index("ranks")
    assert speed["seeds"].tolist() == [2, 3]
    assert set(speed["reason"]) == {"left out, as disturbed: 3d-s16-r1-seed2"}
    assert speed["speed_up"][2] == pytest.approx(2)


def test_a_point_with_one_remaining_seed_has_the_spread_of_the_seeds_of_all_rank_counts() -> None:
    """Its own epochs, all alike, would say that its time is exact. On four ranks all were disturbed and differ more."""
    seconds = {1: 10.0, 2: 5.0, 4: 2.5}
    levels = {"3d-s16-r2": 5.0, "3d-s16-r2-seed1": 5.1, "3d-s16-r2-seed2": 5.2}
    steps = epochs(seconds)
    steps["seconds"] = steps["seconds"].where(~steps["cell"].isin(levels), steps["cell"].map(levels) / 10)
    steps["seconds"] *= steps["cell"].map({"3d-s16-r4": 2.0, "3d-s16-r4-seed1": 9.0}).fillna(1.0)
    table = seeds(seconds)
    is_lost = table["cell"].isin(["3d-s16-r1-seed1", "3d-s16-r1-seed2"]) | (table["ranks"] == 4)
    rows = speed_up(table.assign(left_out=is_lost), steps).set_index("ranks")
    row = rows.loc[2]
    error = np.std(np.log(list(levels.values())), ddof=1) * np.sqrt(1 + 1 / 3)
    half = np.log(row["speed_up_high"] / row["speed_up_low"]) / 2
    assert half == pytest.approx(student.ppf(0.975, 2) * error)
    spread = "with the spread of all rank counts' seeds"
    assert row["interval_over"] == f"3 seeds, {spread}; of the baseline 1 seed, {spread}"
    assert rows["interval_over"][4] == f"3 seeds of 4 epochs; of the baseline 1 seed, {spread}"
    fractions = laws(table.assign(left_out=is_lost), steps).set_index("law")
    assert fractions["high"]["Amdahl"] - fractions["low"]["Amdahl"] > half


def test_trainings_whose_load_was_not_measured_are_named_where_they_count() -> None:
    seconds = amdahl(0.1)
    table = changed(seeds(seconds), "cell", "3d-s16-r1-seed1", disturbed="not measured")
    of_32_slices = cells({1: 10, 2: 5}, slices=32, alike="y")
    speed = speed_up(pd.concat([table, of_32_slices]), NO_EPOCHS)
    doubt = "load not measured: 3d-s16-r1-seed1"
    assert speed.groupby("slices")["reason"].unique().map(list).to_dict() == {16: [doubt], 32: [""]}
    assert laws(table, NO_EPOCHS).query("law == 'Karp-Flatt'")["reason"].tolist() == [doubt] * 3
    disturbed = changed(table, "cell", "3d-s16-r1", disturbed="yes", left_out=True)
    assert set(speed_up(disturbed, NO_EPOCHS)["reason"]) == {f"left out, as disturbed: 3d-s16-r1; {doubt}"}
    reasons = speed_up(table.assign(disturbed="not measured"), NO_EPOCHS)["reason"]
    assert set(reasons) == {"load not measured: all that are used"}  # the ids of forty would fill each row of the page


def test_without_an_undisturbed_training_there_is_no_speed_up() -> None:
    table = seeds({1: 10.0, 2: 5.0}).assign(disturbed="yes", left_out=True)
    speed = speed_up(table, NO_EPOCHS)
    assert speed["speed_up"].isna().all()
    assert set(speed["reason"]) == {"no baseline: all of these trainings were disturbed"}
    assert speed["seconds_a_sample"].tolist() == pytest.approx([1, 0.5])
    (row,) = laws(table, NO_EPOCHS).to_dict("records")
    assert str(row["reason"]).startswith("no training to fit; left out, as disturbed: ")


@pytest.mark.parametrize(
    ("baseline", "cause"),
    [
        ({"disturbed": "yes"}, "the baseline 3d-s16-r1 was disturbed"),
        ({"disturbed": "not measured"}, "whether the baseline 3d-s16-r1 was disturbed was not measured"),
        ({"gpu_mhz": 1200.0}, "the baseline's GPU ran at 1200 MHz, that of 3d-s16-r2 at 1980 MHz"),
        ({"node_list": "n7"}, "the baseline ran on other nodes"),
        ({}, "caches that hold each rank's share, but not the whole of fewer ranks"),
        ({"gpu_mhz": 1940.0}, "caches that hold each rank's share, but not the whole of fewer ranks"),
    ],
)
def test_more_than_all_of_the_ranks_is_called_impossible_with_its_likely_cause(
    baseline: dict[str, object], cause: str
) -> None:
    table = changed(seeds({1: 100, 2: 33}).assign(node_list="n1", gpu_mhz=1980.0), "ranks", 1, **baseline)
    speed = speed_up(table, epochs({1: 100, 2: 33}, spread=0.01)).set_index("ranks")
    assert speed["efficiency_low"][2] > 1
    assert speed["impossible"][1] == ""
    assert speed["impossible"][2] == (f"above 100 % beyond its interval, which ranks cannot be; likely cause: {cause}")


def test_a_little_more_than_all_within_the_interval_is_possible() -> None:
    speed = speed_up(seeds({1: 100, 2: 49.9}), epochs({1: 100, 2: 49.9}, spread=0.05))
    assert set(speed["impossible"]) == {""}
    alone = [speed_up(cells({1: 100, 2: 50 / excess}), NO_EPOCHS)["impossible"][1] for excess in (1.04, 1.06)]
    assert [bool(text) for text in alone] == [False, True]  # without an interval


def fitted(seconds: dict[int, float], spread: float = 0.0) -> pd.DataFrame:
    return laws(seeds(seconds), epochs(seconds, spread)).set_index(["law", "parameter", "ranks"])


def test_a_known_serial_fraction_is_found_within_one_percent() -> None:
    table = fitted(amdahl(0.1))
    assert table["value"][("Amdahl", "serial_fraction", "1 2 4 8")] == pytest.approx(0.1, rel=0.01)
    for ranks in ("2", "4", "8"):
        assert table["value"][("Karp-Flatt", "serial_fraction", ranks)] == pytest.approx(0.1, rel=0.01)
    assert table["value"][("USL", "contention", "1 2 4 8")] == pytest.approx(0.1, rel=0.01)
    assert table["value"][("USL", "coherency", "1 2 4 8")] == pytest.approx(0, abs=1e-6)
    assert set(table["reason"]) == {""}
    beyond = fitted({1: 100, 2: 45})
    assert beyond["value"]["Karp-Flatt", "serial_fraction", "2"] == pytest.approx(-0.1)
    assert beyond["reason"]["Karp-Flatt", "serial_fraction", "2"].startswith("below 0: efficiency above 100 %")
    ideal = fitted({n: 100 / n for n in (1, 2, 4, 8)})
    assert ideal["value"][("Amdahl", "serial_fraction", "1 2 4 8")] == pytest.approx(0, abs=1e-6)


def test_known_contention_and_coherency_are_found_within_one_percent() -> None:
    seconds = {n: 100 * (1 + 0.05 * (n - 1) + 0.002 * n * (n - 1)) / n for n in (1, 2, 4, 8, 16)}
    table = fitted(seconds)["value"]
    assert table["USL", "contention", "1 2 4 8 16"] == pytest.approx(0.05, rel=0.01)
    assert table["USL", "coherency", "1 2 4 8 16"] == pytest.approx(0.002, rel=0.01)
    assert table["USL", "most_ranks", "1 2 4 8 16"] == pytest.approx(np.sqrt(0.95 / 0.002), rel=0.01)


@pytest.mark.parametrize(("contention", "coherency"), [(1.4, 0.0), (1.4, 0.01), (0.9, 0.4)])
def test_where_more_ranks_are_slower_a_single_one_is_best(contention: float, coherency: float) -> None:
    seconds = {n: 10 * (1 + contention * (n - 1) + coherency * n * (n - 1)) / n for n in (1, 2, 4, 8)}
    assert min(seconds, key=seconds.__getitem__) == 1
    assert fitted(seconds)["value"]["USL", "most_ranks", "1 2 4 8"] == 1


def test_a_fit_has_an_interval_about_the_truth() -> None:
    table, row = fitted(amdahl(0.1), spread=0.02), ("Amdahl", "serial_fraction", "1 2 4 8")
    low, value, high = (float(table[end][row]) for end in ("low", "value", "high"))
    assert low < 0.1 < high
    assert low < value < high
    assert high - low < 0.03
    assert table["interval_over"][row] == "3 seeds of 4 epochs"
    assert table["interval_over"][("USL", "most_ranks", "1 2 4 8")] == "none: it follows from contention and coherency"
    assert set(table["reason"]) == {""}


def test_the_interval_of_a_serial_fraction_ends_at_the_whole() -> None:
    table, row = fitted({n: 100 * (0.98 + 0.02 / n) for n in (1, 2, 4, 8)}, spread=0.2), "Amdahl"
    assert table["low"][row].item() < 1 == table["high"][row].item()


def test_too_few_rank_counts_give_a_reason_and_no_figure() -> None:
    two = laws(seeds({1: 10.0, 2: 6.0}), epochs({1: 10.0, 2: 6.0}))
    assert two.loc[two["law"] == "USL", "reason"].tolist() == ["2 of 3 rank counts that are needed"]
    assert two.loc[two["law"] == "USL", "value"].isna().all()
    assert "nothing is left to test" in two.loc[two["law"] == "Amdahl", "reason"].iloc[0]
    no_baseline = laws(seeds({2: 10.0, 4: 6.0}), epochs({2: 10.0, 4: 6.0}))
    assert no_baseline["reason"].tolist() == ["the fewest ranks are 2: one rank is needed"]


def test_laws_of_fixed_work_are_not_fitted_to_weak_scaling() -> None:
    weak = seeds(amdahl(0.1)).assign(work="weak")
    assert laws(weak, epochs(amdahl(0.1)))["reason"].str.startswith("weak scaling").tolist() == [True]
    assert len(speed_up(weak, epochs(amdahl(0.1)))) == 4


def trained(cell: str, dims: int = 3, transfer: str = "none", ranks: int = 1, **columns: str) -> dict[str, object]:
    row = {"cell": cell, "network": f"{dims}d", "counterpart": "2d" if dims == 3 else "", "state": "done",
           "in_grid": dims == 3, "slices": 16, "ranks": ranks, "transfer": transfer}  # fmt: skip
    times = {"steps": 100, "training_seconds": 50.0, "seed": 0, "arm": "full", "disturbed": "no"}
    return {**row, **times, "validated_on": "v", "alike_but_transfer": "x", **columns}


def validated(cell: str, errors: dict[int, float], low: float = 40.0) -> list[dict[str, object]]:
    return [
        {"cell": cell, "step": step, "rmse_hu": low * error, "low_dose_rmse_hu": low} for step, error in errors.items()
    ]


def test_steps_that_a_transfer_saved() -> None:
    """The 2D network ends at 0.7 of the input's error, having been better before."""
    cells = pd.DataFrame([
        trained("2d", dims=2),
        trained("plain"), trained("zero", transfer="zero"), trained("mean", transfer="mean"),
        trained("noise", transfer="noise"),
        trained("plain-2", ranks=2), trained("zero-2", transfer="zero", ranks=2),
        trained("other", transfer="zero", alike_but_transfer="y"),
        trained("failed", transfer="repeat", state="failed"), trained("control", arm="silent"),
    ])  # fmt: skip
    validations = pd.DataFrame([
        *validated("2d", {0: 1.0, 10: 0.6, 20: 0.7}),
        *validated("plain", {60: 0.5, 0: 1.0, 20: 0.8, 40: 0.69}, low=50),  # in any order, on other samples
        *validated("zero", {0: 0.71, 20: 0.7, 40: 0.9}),
        *validated("mean", {0: 0.65, 20: 0.9}),
        *validated("noise", {0: 0.9, 20: 0.71}),
        *validated("plain-2", {0: 1.0, 20: 0.71}),
        *validated("zero-2", {0: 0.7}),
        *validated("other", {0: 0.7}),
        *validated("failed", {0: 0.1}),
    ])  # fmt: skip
    table = steps_to_2d(cells, validations).set_index("cell")
    assert table["error_2d"].unique() == pytest.approx([0.7])
    steps = {cell: None if pd.isna(value) else value for cell, value in table["steps_to_2d"].items()}
    assert steps == {"plain": 40, "zero": 20, "mean": 0, "noise": None, "plain-2": None, "zero-2": 0, "other": 0}
    saved = {cell: None if pd.isna(value) else value for cell, value in table["steps_saved"].items()}
    assert saved == {**dict.fromkeys(table.index), "zero": 20, "mean": 40}
    csv = steps_to_2d(cells, validations).to_csv(index=False).splitlines()
    assert csv[4] == "noise,16,1,noise,2d,0.7,,,,no,"
    assert csv[2] == "zero,16,1,zero,2d,0.7,20,10.0,20,no,"


def test_errors_of_different_validations_are_not_compared_with_2d_and_between_3d_networks_that_have_the_same() -> None:
    """Both 3D networks of other voxels come to 2D's level, of these voxels; after how many steps 2D's is unknown."""
    cells = pd.DataFrame([
        trained("2d", dims=2), trained("alike"), trained("plain", validated_on="w", alike_but_transfer="y"),
        trained("zero", transfer="zero", validated_on="w", alike_but_transfer="y"),
    ])  # fmt: skip
    errors = {"2d": {10: 0.7}, "alike": {10: 0.7}, "plain": {40: 0.7}, "zero": {20: 0.7}}
    lines = [line for cell in cells["cell"] for line in validated(cell, errors[cell])]
    reason = "its counterpart was validated at other doses or on other voxels"
    assert steps_to_2d(cells, pd.DataFrame(lines)).to_csv(index=False).splitlines()[1:] == [
        "alike,16,1,none,2d,0.7,10,5.0,,no,",
        f"plain,16,1,none,2d,,,,,no,{reason}",
        f"zero,16,1,zero,2d,,,,20,no,{reason}",
    ]


def test_without_a_2d_network_or_a_study_nothing_was_reached() -> None:
    lines = pd.DataFrame(validated("plain", {0: 0.1}))
    for state in ("failed", "missing"):
        cells = pd.DataFrame([trained("2d", dims=2, state=state), trained("plain")])
        table = steps_to_2d(cells, pd.DataFrame([*validated("2d", {0: 0.5}), *lines.to_dict("records")]))
        assert table[["error_2d", "steps_to_2d", "steps_saved"]].isna().all(axis=None)
    assert steps_to_2d(pd.DataFrame([trained("2d", dims=2)]), pd.DataFrame(validated("2d", {0: 1.0}))).empty


def test_trainings_that_all_failed_after_a_validation_were_not_compared() -> None:
    cells = pd.DataFrame([trained("2d", dims=2, state="failed"), trained("plain", state="failed")])
    lines = [*validated("2d", {0: 0.5}), *validated("plain", {0: 0.4})]
    assert steps_to_2d(cells, pd.DataFrame(lines)).empty


def test_steps_are_in_six_blocks_at_the_most_and_ten_steps_a_block_at_the_least() -> None:
    assert [block_count(steps) for steps in (9, 19, 20, 59, 60, 1000)] == [0, 1, 2, 5, 6, 6]


def test_a_parameter_that_is_held_at_0_beyond_its_interval_says_so() -> None:
    """An interval from 0 to 0 would pass for certainty."""
    seconds = {1: 100.0, 2: 33.0, 4: 10.0, 8: 4.0}
    table = laws(seeds(seconds), epochs(seconds, spread=0.01)).set_index(["law", "parameter"])
    held = table.loc[table["high"] == 0]
    assert ("Amdahl", "serial_fraction") in set(held.index)
    assert set(held["reason"]) == {"held at 0: below it beyond its interval, see speedup.csv"}
    possible = laws(seeds(amdahl(0.1)), epochs(amdahl(0.1), spread=0.01))
    assert set(possible["reason"]) == {""}
