import pandas as pd
import pytest

from pipeline.scaling.analysis import speed_up


def cells(seconds: dict[int, float], slices: int = 16, alike: str = "x", state: str = "done") -> pd.DataFrame:
    return pd.DataFrame([
        {"cell": f"3d-s{slices}-r{ranks}", "state": state, "dims": 3, "slices": slices, "ranks": ranks,
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
