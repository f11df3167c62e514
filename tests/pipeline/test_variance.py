"""Whether deviations fall with more ranks, against known ones."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from pipeline.scaling.variance import falling_variance, trend, variance
from tests.pipeline.study_cells import seeds


def judged(spreads: dict[int, float], scans: int = 12, count: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scans of three data sets whose MSE spreads by so much at each rank count."""
    generator, rows = np.random.default_rng(4), []
    table = seeds(dict.fromkeys(spreads, 1.0), count)
    for row in table.to_dict("records"):
        for scan in range(scans):
            mse = 1 + spreads[row["ranks"]] * generator.standard_normal()
            rows += [{"model": row["cell"], "dataset": f"d{scan % 3}", "scan": f"s{scan}", "slice": z,
                      "mse": mse + 0.01 * z, "ms_ssim": 0.9} for z in range(3)]  # fmt: skip
    return table, pd.DataFrame(rows)


def test_deviations_are_of_slices_scans_data_sets_and_seeds() -> None:
    table, quality = judged({1: 0.1, 4: 0.1})
    (deviations,) = variance(table, quality).query("metric == 'mse' and ranks == 4").to_dict("records")
    mine = quality[quality["model"].str.startswith("3d-s16-r4")]
    assert (deviations["seeds"], deviations["scans"], deviations["datasets"]) == (3, 12, 3)
    assert deviations["mean"] == pytest.approx(mine["mse"].mean())
    assert deviations["sd_slices"] == pytest.approx(mine["mse"].std())
    assert deviations["sd_scans"] == pytest.approx(mine.groupby("scan")["mse"].mean().std())
    assert deviations["sd_datasets"] == pytest.approx(mine.groupby("dataset")["mse"].mean().std())
    assert deviations["sd_seeds"] == pytest.approx(mine.groupby("model")["mse"].mean().std())


def test_a_fall_of_variance_is_found_where_there_is_one_and_not_where_there_is_none() -> None:
    falls = falling_variance(*judged({1: 0.4, 2: 0.2, 4: 0.1, 8: 0.05}, scans=30)).set_index(["metric", "over"])
    assert falls["p_value"][("mse", "scans")] < 0.01
    assert falls["slope"][("mse", "scans")] == pytest.approx(-np.log(2), rel=0.25)
    assert falls["reason"][("mse", "seeds")] == "3 of at least 5 seeds that are needed"
    assert falls["reason"][("mse", "datasets")] == "3 of at least 5 datasets that are needed"
    assert np.isnan(falls["p_value"][("mse", "seeds")])


def test_p_values_of_a_series_are_corrected_for_their_number() -> None:
    """Of two slice measures over scans; over seeds and data sets there is no test."""
    table, quality = judged({1: 0.12, 2: 0.1, 4: 0.08}, scans=12)
    quality["ms_ssim"] = 0.9 + 0.001 * np.random.default_rng(8).standard_normal(len(quality))
    other_series, judged_other = (
        table.assign(cell="o" + table["cell"], alike="y"),
        quality.assign(model="o" + quality["model"]),
    )
    falls = falling_variance(pd.concat([table, other_series]), pd.concat([quality, judged_other]))
    first, second = falls.iloc[:6], falls.iloc[6:]
    low, high = sorted(first["p_value"].dropna())
    assert low < high < 1
    assert sorted(first["p_holm"].dropna()) == pytest.approx(sorted([min(1, 2 * low), min(1, max(2 * low, high))]))
    assert first["p_holm"].tolist() == pytest.approx(second["p_holm"].tolist(), nan_ok=True)


def test_scans_count_alike_however_many_slices_they_have() -> None:
    """Of all scans but one a slice is judged; without weights a scan's mean is as good as another."""
    table, quality = judged({1: 0.1, 4: 0.1})
    quality = quality[(quality["scan"] == "s0") | (quality["slice"] == 0)]
    deviations = variance(table, quality).query("metric == 'mse' and ranks == 4").iloc[0]
    mine = quality[quality["model"].str.startswith("3d-s16-r4")]
    means = [mine.loc[mine["scan"] == f"s{scan}", "mse"].mean() for scan in range(12)]
    assert deviations["sd_scans"] == pytest.approx(np.std(means, ddof=1))
    falls = falling_variance(table, quality).set_index(["metric", "over"])
    spreads = [_spread_of_means(quality[quality["model"].str.startswith(f"3d-s16-r{ranks}")]) for ranks in (1, 4)]
    assert falls["slope"][("mse", "scans")] == pytest.approx(np.log(spreads[1] / spreads[0]) / 2)


def _spread_of_means(slices: pd.DataFrame) -> float:
    means = np.array([slices.loc[slices["scan"] == f"s{scan}", "mse"].mean() for scan in range(12)])
    return float(np.abs(means - np.median(means)).mean())


def test_one_rank_count_is_not_tested() -> None:
    assert set(falling_variance(*judged({4: 0.1}))["reason"]) == {"one rank count"}


def test_p_is_the_share_of_all_swaps_of_the_rank_counts_within_units() -> None:
    """Units of very unlike spread, which permutations over units would mix; of two rank counts swaps can be listed."""
    values = np.array([[3.0, -2.0, 0.9, -0.8, 0.2, -0.3, 0.05], [2.0, -2.5, 0.5, -0.6, 0.1, -0.1, 0.02]])
    deviations = np.abs(values - np.median(values, axis=1, keepdims=True))
    falls = []
    for swaps in product((False, True), repeat=7):
        one, eight = np.where(swaps, deviations[::-1], deviations).mean(axis=1)
        falls.append(np.log(eight / one) / 3)
    slope, p_value = trend(values, np.array([1, 8]))
    assert slope == pytest.approx(falls[0])
    exact = np.mean(np.array(falls) <= slope + 1e-12)
    assert p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 2000))


def test_the_test_of_variance_is_wrong_as_often_as_it_says() -> None:
    generator, ranks = np.random.default_rng(5), np.array([1, 2, 4])
    wrong = sum(trend(generator.standard_normal((3, 12)), ranks)[1] < 0.1 for _ in range(60))
    assert wrong <= 13  # binomial with 0.1: more than 13 of 60 has a probability of 0.3 %


def test_five_units_that_all_rank_counts_share_are_enough() -> None:
    table, quality = judged({1: 0.2, 4: 0.1}, scans=6)
    few = quality[(quality["scan"] != "s5") | ~quality["model"].str.contains("-r4")]
    (row,) = falling_variance(table, few).query("metric == 'mse' and over == 'scans'").to_dict("records")
    assert (row["units"], row["reason"]) == (5, "")
    assert 0 < row["p_value"] <= 1
    fewer = few[few["scan"] != "s4"]
    (row,) = falling_variance(table, fewer).query("metric == 'mse' and over == 'scans'").to_dict("records")
    assert (row["units"], row["reason"]) == (4, "4 of at least 5 scans that are needed")


def test_what_does_not_vary_does_not_fall() -> None:
    assert trend(np.ones((3, 6)), np.array([1.0, 2.0, 4.0])) == (0, 1)
