"""The model of a step: closed forms, points that the fit did not see, and gloo over a link of set bandwidth."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from pipeline.scaling.projection import RANKS, projection
from pipeline.scaling.step_model import ASSUMED, VARIANTS, Link, MeasuredStep, StepModel, expected_largest, fit
from tests.pipeline.study_cells import cells

SIZE = 10.5e6  # bytes of the network's gradients
TRUE = StepModel(0.8, 0.02, 0.01, Link(20e-6, 1 / 50e9), Link(2e-3, 1 / 1e9), 0.0, SIZE, 4)


def point(model: StepModel, ranks: int) -> MeasuredStep:
    parts = model.parts(ranks)
    exchange = sum(seconds for name, seconds in parts.items() if name.startswith("exchange"))
    compute = parts["compute"] + parts["contention"]
    return MeasuredStep(ranks, max(1, ranks // 4), compute, exchange, parts["stragglers"])


def test_the_largest_of_some_normal_numbers() -> None:
    """Of 2 and 3 by closed form (David & Nagaraja), of 100 and 4,096 by tables and drawing."""
    assert expected_largest(1) == pytest.approx(0, abs=1e-9)
    assert expected_largest(2) == pytest.approx(1 / np.sqrt(np.pi))
    assert expected_largest(3) == pytest.approx(1.5 / np.sqrt(np.pi))
    assert expected_largest(100) == pytest.approx(2.5076, abs=1e-4)
    drawn = np.random.default_rng(0).standard_normal((2000, 4096)).max(axis=1).mean()
    assert expected_largest(4096) == pytest.approx(drawn, rel=0.01)


def test_a_ring_moves_each_byte_almost_twice() -> None:
    assert Link(0.0, 1e-9).all_reduce(4, 1e9) == pytest.approx(1.5)
    assert Link(1e-6, 0.0).all_reduce(8, 1e9) == pytest.approx(14e-6)
    assert Link(1.0, 1.0).all_reduce(1, 1e9) == 0


def test_a_known_step_is_found_and_unseen_points_are_forecast_within_one_percent() -> None:
    model = fit([point(TRUE, ranks) for ranks in (1, 2, 4, 8, 16, 32)], SIZE)
    assert model.compute == pytest.approx(TRUE.compute, rel=0.01)
    assert model.straggler_sd == pytest.approx(TRUE.straggler_sd, rel=0.01)
    for ranks in (64, 256, 4096):
        assert model.efficiency(ranks) == pytest.approx(TRUE.efficiency(ranks), rel=0.01)


def test_what_the_backward_pass_hides_is_found_too() -> None:
    """Else the links would look better than they are, and many ranks would cost next to nothing.

    All of the exchange within a node is hidden, so only the difference of the two is found.
    """
    true = replace(TRUE, hidden=0.015)
    model = fit([point(true, ranks) for ranks in (1, 2, 4, 8, 16, 32, 64, 128)], SIZE)
    within = model.within.all_reduce(4, SIZE) - true.within.all_reduce(4, SIZE)
    assert model.hidden - within == pytest.approx(0.015, rel=0.05)
    assert "no exchange is hidden" not in model.assumed
    for ranks in (256, 4096):
        assert model.efficiency(ranks) == pytest.approx(true.efficiency(ranks), rel=0.01)


def test_a_link_that_one_ring_size_tells_of_has_an_assumed_latency() -> None:
    true = replace(TRUE, between=Link(ASSUMED.latency, 1 / 1e9), within=Link(ASSUMED.latency, 1 / 50e9))
    model = fit([point(true, ranks) for ranks in (1, 4, 8)], SIZE)
    assert model.assumed == ("latency within a node: 5 us", "latency between nodes: 5 us", "no exchange is hidden")
    assert model.efficiency(64) == pytest.approx(true.efficiency(64), rel=0.01)


@pytest.mark.parametrize("left_out", [2, 4, 8, 16, 32])
def test_each_point_is_forecast_from_the_others(left_out: int) -> None:
    """With 1 % of noise in each of them."""
    generator = np.random.default_rng(left_out)
    noisy = [
        MeasuredStep(p.ranks, p.nodes, *(x * (1 + 0.01 * generator.standard_normal()) for x in p[2:]))
        for p in (_Tuple(point(TRUE, ranks)) for ranks in (1, 2, 4, 8, 16, 32))
        if p.ranks != left_out
    ]
    assert fit(noisy, SIZE).efficiency(left_out) == pytest.approx(TRUE.efficiency(left_out), rel=0.03)


class _Tuple(tuple):  # type: ignore[type-arg]
    """A point's five values."""

    def __new__(cls, step: MeasuredStep) -> "_Tuple":
        return super().__new__(cls, (step.ranks, step.nodes, step.compute, step.exchange, step.stragglers))

    ranks = property(lambda self: self[0])
    nodes = property(lambda self: self[1])


def study(ranks: tuple[int, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    generator, table, rows = np.random.default_rng(0), [], []
    for count in ranks:
        step, name = point(TRUE, count), f"3d-s16-r{count}"
        table.append(cells({count: 1.0}, nodes=max(1, count // 4), parameters=SIZE / 4))
        local = step.compute * (1 + 0.01 * generator.standard_normal(100))
        rows += [
            {"cell": name, "seconds": o + step.stragglers + step.exchange, "own_seconds": o,
             "slowest_seconds": o + step.stragglers, "warm": True} for o in local
        ]  # fmt: skip
    return pd.concat(table, ignore_index=True), pd.DataFrame(rows)


def test_a_study_says_where_its_scaling_ends_and_why() -> None:
    table = projection(*study((1, 4, 8, 16))).set_index("ranks")
    assert tuple(table.index) == RANKS
    assert table["efficiency"].tolist() == pytest.approx([TRUE.efficiency(ranks) for ranks in RANKS], rel=0.02)
    assert (table["efficiency_low"] <= table["efficiency"]).all()
    assert (table["efficiency"] <= table["efficiency_high"]).all()
    assert table["speed_up"].tolist() == pytest.approx([ranks * table["efficiency"][ranks] for ranks in RANKS])
    assert table["limit"][4096] == "exchange latency"
    ends = [ranks for ranks in RANKS if TRUE.efficiency(ranks) < 0.5]
    assert table.index[table["ends"]].tolist() == ends
    assert set(table["fitted"]) == {"1 4 8 16"}
    assert set(table["assumed"]) == {"latency within a node: 5 us; no exchange is hidden"}


def test_ranks_that_do_not_fill_their_nodes_are_shared_by_them_alike() -> None:
    """Eight ranks take two nodes of six GPUs, four on each."""
    parts = replace(TRUE, a_node=6).parts(8)
    assert parts["exchange within nodes"] == pytest.approx(TRUE.within.all_reduce(4, SIZE))
    assert parts["exchange latency"] == pytest.approx(TRUE.between.all_reduce(2, 0.0))
    assert parts["contention"] == 0
    assert replace(TRUE, a_node=6).parts(12)["contention"] == TRUE.contention


@pytest.mark.parametrize("rate", [np.inf, 75.0, 40.0, 20.0])
def test_reading_ahead_hides_behind_all_of_a_step(rate: float) -> None:
    """A step takes the longer of the two; at 75 samples a second reading takes longer than compute alone."""
    model = replace(TRUE, data_rate=rate)
    ours, alone = (sum(TRUE.parts(ranks).values()) for ranks in (64, 1))
    assert TRUE.compute < 64 / 75 < ours < 64 / 40
    parts = model.parts(64)
    assert sum(parts.values()) == pytest.approx(max(ours, 64 / rate))
    assert parts["data"] == pytest.approx(max(0, 64 / rate - ours))
    assert sum(model.parts(64, samples=2).values()) == pytest.approx(max(ours, 128 / rate))
    assert model.efficiency(64) == pytest.approx(alone / max(ours, 64 / rate))


def test_data_limit_a_step_that_waits_for_them_however_little() -> None:
    """On 256 ranks reading takes 1.2 s, all else 1.12 s, of which the exchange has 0.27 s."""
    table = projection(*study((1, 4, 8, 16)), data_rate=256 / 1.2).set_index("ranks")
    assert table["step_seconds"][256] == pytest.approx(1.2)
    assert table["limit"][[64, 256]].tolist() == ["exchange latency", "data"]


def test_no_forecast_is_below_its_baseline() -> None:
    table = projection(*study((16, 32, 64)))
    assert table["ranks"].tolist() == [ranks for ranks in RANKS if ranks >= 16]
    assert table["speed_up"].iloc[0] == pytest.approx(1)


def test_what_no_measurement_tells_is_named() -> None:
    model = fit([point(TRUE, ranks) for ranks in (1, 2, 4)], SIZE)
    assert model.between == ASSUMED
    assert model.assumed == ("link between nodes: 5 us, 25 GB/s", "no exchange is hidden")
    assumed = "latency within a node: 5 us; latency between nodes: 5 us; no exchange is hidden"
    assert set(projection(*study((1, 4, 8)))["assumed"]) == {assumed}
    slow = projection(*study((1, 4, 8)), data_rate=100.0).set_index("ranks")
    assert slow["limit"][4096] == "data"
    assert slow["step_seconds"][4096] == pytest.approx(4096 / 100, rel=0.05)


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ((4,), "1 of 3 rank counts that are needed have warm steps"),
        ((4, 8), "2 of 3 rank counts that are needed have warm steps"),
        ((1, 2, 4), "all trainings ran on one node: nothing tells what a network between nodes costs"),
    ],
)
def test_too_little_to_forecast_from_gives_a_reason_and_no_number(ranks: tuple[int, ...], reason: str) -> None:
    (row,) = projection(*study(ranks)).to_dict("records")
    assert row["reason"] == reason
    assert row["fitted"] == " ".join(map(str, ranks))
    assert all(pd.isna(row[name]) for name in ("ranks", "speed_up", "efficiency", "efficiency_low", "step_seconds"))


def test_disturbed_trainings_are_no_part_of_a_forecast() -> None:
    table, steps = study((1, 4, 8, 16))
    table["left_out"] = table["ranks"] == 16
    assert set(projection(table, steps)["fitted"]) == {"1 4 8"}
    table["left_out"] = table["ranks"] >= 8
    (row,) = projection(table, steps).to_dict("records")
    assert row["reason"] == "2 of 3 rank counts that are needed have warm steps (left out as disturbed: 2)"


def test_a_baseline_with_one_remaining_seed_has_the_spread_of_the_other_counts_seeds() -> None:
    """Three seeds differ by 2 %; of the baseline, whose steps are all alike, one is left: six degrees of freedom."""
    table, steps = (pd.concat(tables, ignore_index=True) for tables in zip(*(
        _of_seed(*study((1, 4, 8, 16)), seed, level) for seed, level in enumerate((0.98, 1.0, 1.02))
    ), strict=True))  # fmt: skip
    table["left_out"] = (table["ranks"] == 1) & (table["seed"] > 0)
    row = projection(table, steps).set_index("ranks").loc[16]
    half = np.log(row["efficiency_high"] / row["efficiency_low"]) / 2
    assert half == pytest.approx(student.ppf(0.975, 6) * 0.02 * np.sqrt(1 + 1 / 3), rel=0.25)
    assert row["interval_over"].startswith(
        "6 blocks of steps of one seed, with the spread of other rank counts' seeds;"
    )


def _of_seed(table: pd.DataFrame, steps: pd.DataFrame, seed: int, level: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    names, times = f"-seed{seed}", ["seconds", "own_seconds", "slowest_seconds"]
    steps[times] = level * steps.groupby("cell")[times].transform("mean")
    return (
        table.assign(cell=table["cell"] + names, seed=seed),
        steps.assign(cell=steps["cell"] + names),
    )


def test_a_forecast_names_the_trainings_whose_load_was_not_measured() -> None:
    table, steps = study((1, 4, 8, 16))
    table["disturbed"] = np.where(table["ranks"] == 4, "not measured", "no")
    assert set(projection(table, steps)["reason"]) == {"load not measured: 3d-s16-r4"}
    (row,) = projection(table[table["ranks"] > 1], steps[steps["cell"] != "3d-s16-r16"]).to_dict("records")
    assert row["reason"] == "2 of 3 rank counts that are needed have warm steps; load not measured: 3d-s16-r4"
    assert set(projection(table.assign(disturbed="no"), steps)["reason"]) == {""}


def test_a_disturbed_baseline_that_no_measure_caught_gives_no_forecast() -> None:
    """Each rank of a step does as much on any number of ranks, so no step can be shorter than the baseline's."""
    table, steps = study((1, 4, 8, 16))
    slow = steps["cell"] == "3d-s16-r1"
    for name in ("seconds", "own_seconds", "slowest_seconds"):
        steps[name] = steps[name].mask(slow, 1.5 * steps[name])
    (row,) = projection(table, steps).to_dict("records")
    assert row["reason"].startswith("steps on 4 ranks were shorter than on 1, so the latter were disturbed")
    assert pd.isna(row["efficiency"])


def test_far_beyond_what_was_measured_a_forecast_is_a_scenario() -> None:
    table = projection(*study((1, 4, 8))).set_index("ranks")
    kinds = {8: "measured range", **dict.fromkeys((16, 32, 64), "forecast")}
    assert table["kind"].to_dict() == {**dict.fromkeys(RANKS, "scenario"), **kinds}


def test_a_forecast_is_against_the_fewest_measured_ranks() -> None:
    table = projection(*study((2, 4, 8, 16))).set_index("ranks")
    assert set(table["baseline_ranks"]) == {2}
    assert table["speed_up"][64] == pytest.approx(32 * TRUE.efficiency(64, baseline=2), rel=0.03)
    assert table["efficiency"][64] == pytest.approx(TRUE.efficiency(64, baseline=2), rel=0.03)


def test_models_and_links_that_no_measurement_tells_apart_are_in_the_interval() -> None:
    """A tree's latency grows with the logarithm of the nodes, a ring's with their number."""
    table = projection(*study((1, 4, 8))).set_index("ranks")
    width = (table["efficiency_high"] - table["efficiency_low"]).to_dict()
    assert width[8] < 0.02
    assert width[4096] > 5 * width[8]
    measured = [point(TRUE, ranks) for ranks in (1, 4, 8)]
    for variant in VARIANTS:
        model = fit(measured, SIZE, variant)
        assert table["efficiency_low"][4096] <= model.efficiency(4096) <= table["efficiency_high"][4096]


def test_an_all_reduce_by_a_tree_and_delays_with_a_long_tail() -> None:
    assert Link(1.0, 0.0).all_reduce(8, 1e9, "tree") == 6
    assert Link(0.0, 1e-9).all_reduce(8, 1e9, "tree") == pytest.approx(2)
    assert Link(1.0, 1.0).all_reduce(1, 1e9, "tree") == 0
    drawn = np.random.default_rng(0).exponential(size=(4000, 64)).max(axis=1).mean() - 1
    assert expected_largest(64, "exponential") == pytest.approx(drawn, rel=0.02)


MEGABITS, BUFFER = 200, SIZE / 4
_GLOO = """
import json, sys, time
import torch, torch.distributed as dist
from multiprocessing import set_forkserver_preload
from torch.multiprocessing.spawn import start_processes

def rank(number, ranks, sizes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{ranks}", rank=number, world_size=ranks)
    found = {}
    for size in sizes:
        buffer, taken = torch.ones(size // 4), []
        for _ in range(4):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(buffer)
            # from the first rank's start: a rank that wakes late finds part of the bytes already sent
            ends = torch.tensor([-began, time.perf_counter()], dtype=torch.float64)
            dist.all_reduce(ends, dist.ReduceOp.MAX)
            taken.append(float(ends.sum()))
        found[size] = min(taken[1:])  # what else the machine does only adds
    if number == 0:
        open(f"{folder}/{ranks}.json", "w").write(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()  # else gloo's threads may outlive the interpreter, which aborts the process

if __name__ == "__main__":
    set_forkserver_preload(["torch.distributed"])
    folder, sizes = sys.argv[1], [int(size) for size in sys.argv[2:]]
    for ranks in (2, 3, 4):
        start_processes(rank, (ranks, sizes, folder), ranks, start_method="forkserver")
"""


@pytest.mark.slow
@pytest.mark.ranks
def test_gloo_over_a_slow_link_is_forecast_at_a_rank_count_that_the_fit_did_not_see(tmp_path: Path) -> None:
    """All ranks share one emulated link, over which 2 (n - 1) bytes pass for each of the buffer's.

    A ring's seconds are then proportional to n - 1, which the model has as latency. Four processes on two cores, and
    the token bucket's own grain, leave a tenth.
    """
    if os.geteuid() != 0 or not shutil.which("tc") or not shutil.which("unshare"):
        pytest.skip("emulating a link needs root, tc and unshare")
    shape = f"ip link set lo up && tc qdisc add dev lo root tbf rate {MEGABITS}mbit burst 256kb latency 400ms"
    script = tmp_path / "gloo.py"
    script.write_text(_GLOO)
    command = f"{shape} && exec {sys.executable} {script} {tmp_path} {int(BUFFER)}"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(["unshare", "-n", "bash", "-c", command], env=environment, capture_output=True,
                               text=True, check=False, timeout=240)  # fmt: skip
    if "qdisc kind is unknown" in completed.stderr:
        pytest.skip("this kernel has no token bucket filter (tc tbf)")
    assert completed.returncode == 0, completed.stderr
    seconds = {n: json.loads((tmp_path / f"{n}.json").read_text())[str(int(BUFFER))] for n in (2, 3, 4)}
    model = fit([MeasuredStep(n, 1, 1.0, seconds[n], 0.0) for n in (2, 3)], BUFFER)
    assert model.within.all_reduce(4, BUFFER) == pytest.approx(seconds[4], rel=0.1)
    assert seconds[2] == pytest.approx(2 * BUFFER * 8 / (MEGABITS * 1e6), rel=0.25)  # the link's own rate
