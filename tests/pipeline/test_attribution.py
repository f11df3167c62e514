"""Where the efficiency of a study went, against closed forms."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from scipy.stats import t as student

from pipeline.scaling.attribution import CAUSES, attribution
from tests.pipeline.study_cells import cells, changed


def controlled(missing: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four ranks: 1.0 s alone of which 0.05 are data, 0.2 s of exchange, one rank of four 0.1 s late, 0.15 s of
    contention, and another 0.05 s of data."""
    generator = np.random.default_rng(3)
    arms = {"full": 1.55, "synthetic": 1.45, "silent": 1.25, "alone": 1.05}
    rows, steps = [], []
    for arm, step_seconds in arms.items():
        if arm == missing:
            continue
        ranks = 1 if arm == "alone" else 4
        rows.append(cells({ranks: 1.0}, arm=arm, steps=100, start_seconds=20.0).assign(cell=arm))
        for step in range(200):
            seconds, late = step_seconds * (1 + 0.01 * generator.standard_normal()), 0.1 if arm != "alone" else 0.0
            warm = step >= 10
            steps.append({"cell": arm, "step": step, "seconds": seconds if warm else 99.0, "own_seconds": seconds,
                          "slowest_seconds": seconds + late, "data_seconds": 0.05, "warm": warm})  # fmt: skip
    return pd.concat(rows, ignore_index=True), pd.DataFrame(steps)


def test_what_was_injected_is_attributed_within_one_percent_of_a_step() -> None:
    table = attribution(*controlled()).set_index("cause")
    truth = {"data": 0.1, "exchange": 0.2, "stragglers": 0.1, "contention": 0.15, "start": 0.2}
    for cause, seconds in truth.items():
        assert table["seconds"][cause] == pytest.approx(seconds, abs=0.01 * 1.55)
    assert table["seconds"].drop("start").sum() == pytest.approx(table["step_seconds"].iloc[0] - 1.0, abs=0.01)
    assert table["efficiency"].iloc[0] == pytest.approx(1 / 1.55, rel=0.01)
    total = 1.55 + 0.2
    assert table["lost"]["exchange"] == pytest.approx(0.2 / total, abs=0.01)
    assert table["lost_low"]["exchange"] < 0.2 / total < table["lost_high"]["exchange"]
    assert table["lost"]["start"] == pytest.approx(0.2 / total, rel=0.01)


def test_unlike_trainings_are_not_attributed_together() -> None:
    cells_, steps = controlled()
    a100 = cells_[cells_["arm"] == "full"].assign(cell="other", device="A100")
    faster = steps[steps["cell"] == "full"].assign(cell="other", seconds=0.5)
    table = attribution(pd.concat([cells_, a100]), pd.concat([steps, faster]))
    rows = table.drop_duplicates("step_seconds").sort_values("step_seconds")
    assert rows["step_seconds"].tolist() == pytest.approx([0.5, 1.55], rel=0.01)
    assert rows["missing"].tolist() == ["synthetic silent alone", ""]
    assert rows["device"].tolist() == ["A100", "cpu"]


def test_each_point_with_control_arms_has_rows_of_its_own_and_others_have_none() -> None:
    """Of 32 slices, twice as slow, with arms too, and on 2 ranks, or with an arm that stands alone, without."""
    cells_, steps = controlled()
    larger = cells_.assign(slices=32, cell="32-" + cells_["cell"])
    slower = steps.assign(cell="32-" + steps["cell"], seconds=2 * steps["seconds"])
    on_two = cells({2: 1.0}, steps=100, start_seconds=20.0).assign(cell="two")
    alone = cells_[cells_["arm"] == "alone"].assign(cell="a100", device="A100")
    faster = [steps[steps["cell"] == arm].assign(cell=cell) for arm, cell in (("full", "two"), ("alone", "a100"))]
    table = attribution(pd.concat([cells_, larger, on_two, alone]), pd.concat([steps, slower, *faster]))
    rows = table.drop_duplicates(["slices", "ranks", "device"])
    assert rows[["slices", "ranks", "device"]].to_numpy().tolist() == [[16, 4, "cpu"], [32, 4, "cpu"]]
    assert rows["step_seconds"].tolist() == pytest.approx([1.55, 3.1], rel=0.01)
    assert table["cause"].tolist() == 2 * [*CAUSES, "start"]


def test_a_training_without_warm_steps_is_missing() -> None:
    cells_, steps = controlled()
    steps["warm"] &= steps["cell"] != "silent"
    table = attribution(cells_, steps).set_index("cause")
    assert table["missing"]["exchange"] == "silent"
    assert table["seconds"]["data"] == pytest.approx(0.1, abs=0.02)


def test_without_an_arm_its_parts_are_empty_and_it_is_named() -> None:
    table = attribution(*controlled("silent")).set_index("cause")
    assert table["seconds"][["exchange", "stragglers", "contention"]].isna().all()
    assert table["missing"]["exchange"] == "silent"
    assert table["seconds"]["data"] == pytest.approx(0.1, abs=0.02)


def test_a_disturbed_arm_is_left_out_of_the_attribution_and_named() -> None:
    cells_, steps = controlled()
    table = attribution(changed(cells_, "cell", "silent", disturbed="yes", left_out=True), steps).set_index("cause")
    assert set(table["disturbed"]) == {"silent"}
    assert table["missing"]["exchange"] == "silent"
    included = attribution(changed(cells_, "cell", "silent", disturbed="yes"), steps).set_index("cause")
    assert set(included["disturbed"]) == {"silent"}
    assert included["seconds"]["exchange"] == pytest.approx(0.2, abs=0.02)


def test_a_cause_that_gains_time_beyond_its_interval_is_called_impossible() -> None:
    cells_, steps = controlled()
    slow = steps["cell"] == "synthetic"
    steps["seconds"] = steps["seconds"].mask(slow, 2 * steps["seconds"])
    table = attribution(cells_, steps).set_index("cause")
    assert table["lost_high"]["data"] < 0
    assert table["impossible"]["data"].startswith("below 0 beyond its interval: a control arm was slower")
    assert table["impossible"]["exchange"] == ""


def test_the_interval_of_an_attribution_grows_with_the_correlation_of_the_steps() -> None:
    """By the square root of (1 + r) / (1 - r), were all of it seen in blocks of thirty steps; less the seen part."""
    widths = []
    for correlation in (0.0, 0.65):
        cells_, steps = controlled()
        noise = np.random.default_rng(1).standard_normal((4, 200))
        correlated = lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], noise).ravel()
        factors = 1 + 0.05 * correlated
        for name in ("seconds", "own_seconds", "slowest_seconds"):
            steps[name] = steps.groupby("cell")[name].transform("median") * factors
        table = attribution(cells_, steps).set_index("cause")
        widths.append(table["lost_high"]["exchange"] - table["lost_low"]["exchange"])
    assert 1.4 < widths[1] / widths[0] < 3.2


def test_the_spread_of_seeds_is_one_estimate_however_many_arms_share_it() -> None:
    """Two seeds of one arm give one degree of freedom. Their own steps, which drift, then say nothing more."""
    cells_, steps = controlled()
    steps["seconds"] = steps["cell"].map({"full": 1.55, "synthetic": 1.45, "silent": 1.25, "alone": 1.05})
    second = cells_[cells_["cell"] == "full"].assign(cell="second")
    slower = steps[steps["cell"] == "full"].assign(cell="second", seconds=1.58)
    drift = 0.001 * (steps["step"] - 104.5)
    steps["seconds"] += drift.where(steps["cell"] == "full", 0.0)
    slower["seconds"] += drift
    row = attribution(pd.concat([cells_, second]), pd.concat([steps, slower])).set_index("cause").loc["data"]
    full, total = (1.55 + 1.58) / 2, (1.55 + 1.58) / 2 + 0.2
    lost, sd = (full - 1.45) / total, np.std(np.log([1.55, 1.58]), ddof=1)
    error = sd / total * np.sqrt(((1 - lost) * full) ** 2 / 2 + 1.45**2)
    assert row["lost"] == pytest.approx(lost)
    assert row["lost_high"] - row["lost"] == pytest.approx(student.ppf(0.975, 1) * error)


def test_too_few_steps_give_no_interval_and_say_so() -> None:
    cells_, steps = controlled()
    table = attribution(cells_, steps[steps["step"] < 25]).set_index("cause")
    assert table["lost"]["exchange"] == pytest.approx(0.2 / 1.75, abs=0.02)
    assert np.isnan(table["lost_low"]["exchange"])
    assert table["interval_over"]["exchange"] == "nothing: too few steps"
    enough = attribution(cells_, steps[steps["step"] < 30]).set_index("cause")
    assert enough["lost_low"]["exchange"] < enough["lost"]["exchange"] < enough["lost_high"]["exchange"]
    assert enough["interval_over"]["exchange"] == "blocks of steps of one seed an arm; full 20, silent 20 steps"


def test_a_rank_alone_exchanges_nothing_in_any_step() -> None:
    cells_, steps = controlled()
    alone = cells_[cells_["arm"].isin(["full", "synthetic"])].assign(ranks=1)
    steps = steps.assign(slowest_seconds=steps["own_seconds"])
    table = attribution(pd.concat([alone, cells_[cells_["arm"] == "alone"]]), steps).set_index("cause")
    for cause in ("exchange", "stragglers"):
        row = table.loc[cause, ["seconds", "lost", "interval_over"]]
        assert list(row) == [0, 0, "nothing: the same in all steps"]
    assert table["interval_over"]["data"] == "blocks of steps of one seed an arm; full 190, synthetic 190 steps"
