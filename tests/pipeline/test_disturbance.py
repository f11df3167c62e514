"""What other work on a training's nodes is measured, and from when on the training counts as disturbed."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.report.tables import cells_table
from pipeline.scaling.disturbance import LIMITS, MEASURES, judge_load
from pipeline.scaling.timing import steps_table
from pipeline.settings.cells import cells_of
from pipeline.training import node_load
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.clock import StepClock
from pipeline.training.gpu_state import GpuState
from pipeline.training.measurements import Measurements
from pipeline.training.node_load import LoadMeter, neighbour_jobs, process_seconds, summarise
from pipeline.training.ranks import Ranks
from pipeline.training.record import TrainingRecord
from pipeline.training.world import World
from tests.pipeline.cells import cell
from tests.pipeline.runs import fill, settings_of, write_load
from tests.pipeline.trainings import CPU, Halted, run, train_ranks
from tests.programs import write_program

QUIET = {"cpu_share": 0.96, "foreign_share": 0.009, "foreign_node_share": 0.009, "jobs_start": 0.0, "jobs_end": 0.0,
         "gpu_mhz": 1980.0, "gpu_throttled_share": 0.0}  # fmt: skip


@contextmanager
def busy_loops() -> Iterator[None]:
    """A process for each core that does nothing else."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_beside_a_busy_loop_a_core_is_disturbed(
    make_pair: Callable[..., Path], tmp_path: Path, ranks: int
) -> None:
    settings = cell(2, ranks=ranks, samples=16, epochs=1, crop=32)
    with busy_loops():
        load = train_ranks(settings, make_pair(), tmp_path / "cell")[0]["load"]
    assert set(load) == set(MEASURES)
    assert load["foreign_share"] > 0.3  # ranks and loops share the cores
    assert load["foreign_node_share"] > 0.3
    assert load["switches_a_second"] > 0
    assert load["average_start"] > 0
    disturbed, reason = judge_load(load)
    assert disturbed == "yes"
    assert reason.startswith("other processes took")


def _burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def _burn_and_wait(ready: Any, finish: Any) -> None:
    _burn(0.3)
    ready.set()
    finish.wait(60)


def test_a_training_s_own_reading_processes_are_no_foreign_work() -> None:
    """While they live and after their end, which takes some time of its own."""
    context, start, ended = multiprocessing.get_context("fork"), process_seconds(), children_seconds()
    ready, finish = context.Event(), context.Event()
    reader = context.Process(target=_burn_and_wait, args=(ready, finish))
    reader.start()
    assert ready.wait(60)
    _burn(0.2)
    assert process_seconds() - start == pytest.approx(0.5, abs=0.15)
    finish.set()
    reader.join()
    assert process_seconds() - start == pytest.approx(0.2 + children_seconds() - ended, abs=0.15)


def children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


NO_CPUS = "cpu  0 0 0 0 0 0 0 0 0 0\n"
ZERO_CPUS = NO_CPUS + "".join(f"cpu{core} 0 0 0 0 0 0 0 0 0 0\n" for core in range(os.cpu_count() or 1))


@pytest.mark.parametrize("counters", [None, "", NO_CPUS, ZERO_CPUS])
def test_where_the_kernel_counts_no_cpu_seconds_other_work_was_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counters: str | None
) -> None:
    """As in some sandboxes, whose ``/proc/stat`` is missing, empty, without cores or full of zeros."""
    monkeypatch.setattr(node_load, "_STAT", tmp_path / "stat")
    if counters is not None:
        (tmp_path / "stat").write_text(counters)
    load: dict[str, list[float]] = {}
    meter = LoadMeter(Ranks(World(), CPU), load)
    _burn(0.05)
    meter.settle()
    measures = summarise(load)
    assert measures["foreign_share"] is measures["foreign_node_share"] is None
    assert judge_load(measures) == ("not measured", "")


def test_a_little_less_than_the_ranks_own_seconds_is_no_foreign_work() -> None:
    """Of a tick's grain."""
    sums = {"wall": [10.0], "process": [9.9], "cores": [9.8], "node": [9.8], "foreign": [-0.1], "foreign_node": [-0.1],
            "capacity": [10.0], "node_capacity": [10.0], "switches": [0.0], "gpu_samples": [0.0], "gpu_mhz": [0.0],
            "gpu_throttled": [0.0], "average_start": [0.0], "jobs_start": [0.0]}  # fmt: skip
    assert summarise(sums)["foreign_share"] == summarise(sums)["foreign_node_share"] == 0


@pytest.mark.parametrize(
    ("foreign", "foreign_node", "throttled", "verdict"),
    [
        ([np.nan, 60.0], [np.nan, 60.0], [np.nan, 0.0], ("yes", 0.6, 0.3, None)),
        ([np.nan, 1.0], [np.nan, 60.0], [0.0, 0.0], ("yes", None, 0.3, 0.0)),
        ([np.nan, 1.0], [np.nan, 1.0], [6.0, np.nan], ("yes", None, None, 0.6)),
        ([np.nan, 1.0], [np.nan, 1.0], [0.0, np.nan], ("not measured", None, None, None)),
        ([2.0, 1.0], [2.0, 1.0], [0.0, 0.0], ("no", 0.02, 0.01, 0.0)),
    ],
)
def test_a_node_without_counters_hides_nothing_that_was_measured_on_another(
    foreign: list[float], foreign_node: list[float], throttled: list[float], verdict: tuple[str | float | None, ...]
) -> None:
    """Two ranks on nodes of twice their cores, for 100 s of which each takes all; ten samples of each GPU."""
    samples = np.where(np.isnan(throttled), 0.0, 10.0)
    measures = summarise({
        "wall": [100.0] * 2, "process": [100.0] * 2, "switches": [0.0] * 2, "average_start": [1.0], "jobs_start": [0.0],
        "foreign": foreign, "cores": [100 + loss for loss in foreign], "capacity": [100.0] * 2,
        "foreign_node": foreign_node, "node": [100 + loss for loss in foreign_node], "node_capacity": [200.0] * 2,
        "gpu_samples": samples.tolist(), "gpu_throttled": np.nan_to_num(throttled).tolist(),
        "gpu_mhz": (samples * [900.0, 1800.0]).tolist(),
    })  # fmt: skip
    shares = (measures[name] for name in ("foreign_share", "foreign_node_share", "gpu_throttled_share"))
    assert (judge_load(measures)[0], *shares) == verdict
    assert measures["gpu_mhz"] == (900 if samples[0] else 1800)


def test_reading_the_load_is_no_part_of_a_line_s_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(CPU)
    measurements = Measurements(TrainingRecord(), clock, Ranks(World(), CPU), 0.0)
    busy_seconds, ends = node_load.busy_seconds, list[float]()

    def counted(cores: Collection[int]) -> tuple[float, float]:
        seconds = busy_seconds(cores)
        ends.append(time.perf_counter())
        return seconds

    monkeypatch.setattr(node_load, "busy_seconds", counted)
    measurements.start()
    clock.mark("data")
    marked = time.perf_counter()
    assert clock.seconds()["data"] <= marked - ends[-1]


@pytest.mark.slow
def test_the_sums_go_on_over_a_resumption(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, settings = make_pair(), cell(2, checkpoint_minutes=1e-9, samples=8)
    with pytest.raises(Halted):
        run(settings, data, tmp_path, stop_at=9)
    result = run(settings, data, tmp_path)
    state = Checkpoints(tmp_path / "checkpoints").load(result["steps"])
    assert state["load"]["wall"] == pytest.approx([state["seconds"]["training"]], rel=0.2)
    assert state["load"]["process"] == pytest.approx([state["spent"]["cpu"]], rel=0.2)
    assert len(state["load"]["average_start"]) == 1


def test_ranks_see_each_other_s_numbers_and_a_cpu_has_no_clock_rate() -> None:
    ranks = Ranks(World(), CPU)
    assert ranks.rows([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert ranks.gather("a") == ["a"]
    assert GpuState(torch.device("cpu")).sample() == (0.0, 0.0, 0.0)


def test_other_jobs_are_asked_for_in_a_job_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert neighbour_jobs() != neighbour_jobs()  # NaN
    write_program(
        tmp_path,
        "squeue",
        '[ "$SLURM_JOB_NODELIST" = n1 ] || exit 1\n'
        "[ -n \"$SQUEUE_USERS\" ] && printf '8\\n' || printf '7\\n8\\n9\\n'",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("SQUEUE_USERS", "me")  # a user's own filter
    assert neighbour_jobs() == 2
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n2")
    assert neighbour_jobs() != neighbour_jobs()


def test_a_quiet_training_is_not_disturbed_and_each_limit_can_be_passed() -> None:
    assert judge_load(QUIET) == ("no", "")
    for limit in LIMITS:
        assert judge_load({**QUIET, limit.measure: limit.largest}) == ("no", "")
        disturbed, reason = judge_load({**QUIET, limit.measure: limit.largest + 0.1, "jobs_end": 3.0})
        assert (disturbed, reason.count(";")) == ("yes", 1)
        assert reason.endswith("3 other jobs were on its nodes")
        assert f"{limit.largest + 0.1:.0%}" in reason
    assert judge_load({**QUIET, "gpu_throttled_share": None}) == ("no", "")


def test_what_was_not_measured_is_not_called_undisturbed() -> None:
    assert judge_load(None) == judge_load({}) == judge_load({"foreign_share": None}) == ("not measured", "")
    assert judge_load({**QUIET, "foreign_share": None}) == ("not measured", "")
    throttled = {**QUIET, "foreign_share": None, "foreign_node_share": None, "gpu_throttled_share": 0.6}
    assert judge_load(throttled) == ("yes", "its GPU was throttled in 60% of the samples")


@pytest.mark.parametrize("include", [False, True])
def test_the_table_of_trainings_marks_what_was_disturbed(tmp_path: Path, include: bool) -> None:
    cells = cells_of(settings_of(study={"slices": [16], "ranks": [1, 2, 4]}))
    ids = [settings.id for settings in cells]
    fill(tmp_path, cells, {"2d", "3d-s16-r1", "3d-s16-r2"})
    write_load(tmp_path, "3d-s16-r1", {**QUIET, "foreign_share": 0.5})
    write_load(tmp_path, "3d-s16-r2", QUIET)
    states = {**dict.fromkeys(ids, ("done", "")), "3d-s16-r4": ("failed", "rank 1 died")}
    steps = steps_table([], {})
    table = cells_table(tmp_path, cells, states, steps, include_disturbed=include).set_index("cell")
    assert table["disturbed"].to_dict() == {"2d": "not measured", "3d-s16-r1": "yes", "3d-s16-r2": "no",
                                            "3d-s16-r4": ""}  # fmt: skip
    assert table["disturbance"]["3d-s16-r1"] == "other processes took 50% of the cores that its ranks may use"
    assert table["foreign_share"]["3d-s16-r2"] == 0.009
    assert table.index[table["left_out"]].tolist() == ([] if include else ["3d-s16-r1"])


def test_leaving_out_is_no_setting_of_a_training() -> None:
    cells = [cells_of(settings_of(study={"include_disturbed": include})) for include in (False, True)]
    assert cells[0] == cells[1]
