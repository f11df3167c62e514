import pandas as pd
import pytest

from pipeline.scaling.analysis import speed_up, steps_to_2d


def cells(seconds: dict[int, float], slices: int = 16, alike: str = "x", state: str = "done") -> pd.DataFrame:
    return pd.DataFrame([
        {"cell": f"3d-s{slices}-r{ranks}", "state": state, "dims": 3, "slices": slices, "ranks": ranks,
         "transfer": "zero",
         "alike": alike, "samples": 10, "training_seconds": value}
        for ranks, value in seconds.items()
    ])  # fmt: skip


def test_ideal_scaling() -> None:
    table = speed_up(cells({n: 100 / n for n in (1, 2, 4, 8)}))
    assert table["speed_up"].tolist() == pytest.approx([1, 2, 4, 8])
    assert table["efficiency"].tolist() == pytest.approx([1] * 4)


def test_amdahls_law_with_a_known_serial_fraction() -> None:
    serial = 0.1
    table = speed_up(cells({n: 100 * (serial + (1 - serial) / n) for n in (1, 2, 4, 8)}))
    assert table["speed_up"].tolist() == pytest.approx([1 / (serial + (1 - serial) / n) for n in (1, 2, 4, 8)])


def test_the_papers_own_table_for_16_slices() -> None:
    seconds: dict[int, float] = {1: 10 * 3600 + 31 * 60 + 3, 2: 5 * 3600 + 24 * 60 + 7, 4: 3 * 3600 + 8 * 60 + 17}
    table = speed_up(cells(seconds))
    assert table["speed_up"].round(2).tolist() == [1, 1.95, 3.35]
    assert (100 * table["efficiency"]).round().tolist() == [100, 97, 84]


def test_without_one_rank_the_fewest_are_the_baseline() -> None:
    table = speed_up(cells({2: 50, 4: 25}, slices=32))
    assert table["baseline"].tolist() == ["3d-s32-r2"] * 2
    assert table["speed_up"].tolist() == pytest.approx([2, 4])


def test_unlike_and_failed_cells_are_not_compared() -> None:
    both = pd.concat([cells({1: 100}), cells({2: 10}, alike="y"), cells({4: 1.0}, state="failed")])
    table = speed_up(both)
    assert table["speed_up"].tolist() == pytest.approx([1, 2])  # each its own baseline
    assert "3d-s16-r4" not in set(table["cell"])
    assert speed_up(cells({1: 1.0}, state="failed")).empty


def test_time_is_that_of_a_sample() -> None:
    table = cells({1: 100, 8: 13})
    table["samples"] = [100, 104]
    assert speed_up(table)["speed_up"].tolist() == pytest.approx([1, 8.0])


def trained(cell: str, dims: int = 3, transfer: str = "none", ranks: int = 1, **more: str) -> dict[str, object]:
    row = {"cell": cell, "state": "done", "dims": dims, "slices": 16, "ranks": ranks, "transfer": transfer}
    return {**row, "alike_but_transfer": "x", **more}


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
        trained("failed", transfer="repeat", state="failed"),
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
    assert csv[4] == "noise,16,1,noise,0.7,,"
    assert csv[2] == "zero,16,1,zero,0.7,20,20"


def test_without_a_2d_network_or_a_study_nothing_was_reached() -> None:
    lines = pd.DataFrame(validated("plain", {0: 0.1}))
    for state in ("failed", "missing"):
        cells = pd.DataFrame([trained("2d", dims=2, state=state), trained("plain")])
        table = steps_to_2d(cells, pd.DataFrame([*validated("2d", {0: 0.5}), *lines.to_dict("records")]))
        assert table[["error_2d", "steps_to_2d", "steps_saved"]].isna().all(axis=None)
    assert steps_to_2d(pd.DataFrame([trained("2d", dims=2)]), pd.DataFrame(validated("2d", {0: 1.0}))).empty
