"""Whole runs on a real Slurm, disturbed in many ways: each ends as if nothing had happened."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slurm.devcluster import Cluster
from tests.slurm.clusters import kill_controller
from tests.slurm.queued import CELL, LONG, SPREAD, WHOLE, Queued, bytes_of, changed, log_of
from tests.toy_runs import Toy, assert_alike, make_toy_scan, wait_for, whole_run

pytestmark = [pytest.mark.slurm, pytest.mark.whole]


def test_the_whole_graph_on_two_nodes_is_as_that_of_one_machine(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, SPREAD, cluster)
    began = time.monotonic()
    told = toy.submit()
    assert time.monotonic() - began < 20
    for name in (
        "find",
        "prepare",
        "split",
        "train (2d)",
        "transfer",
        "study (3d-s16-r4)",
        "evaluate",
        "export",
        "report",
    ):
        assert f"{name}: job " in told or f"{name} (" in told
    again = toy.submit()
    assert "nothing to submit" in again
    assert "in the queue" in toy.tell("status")
    wait_for(lambda: toy.nodes(toy.job("study")), WHOLE)
    assert len(toy.nodes(toy.job("study"))) == 2
    assert "on node[" in toy.tell("status")
    toy.await_end()
    assert toy.tell("status").count(" done ") == 14  # thirteen items, and the look for scans
    assert_alike(toy, spread_locally)
    logs = toy.run_folder / "logs" / "slurm"
    assert {path.stat().st_mode & 0o077 for path in (logs, toy.run_folder / "logs")} == {0}
    assert "nothing to submit" in toy.submit()
    given = accounted(toy)
    assert [given.loc["study/3d-s16-r4", name] for name in ("gpus", "starts")] == [4, 1]
    assert given.loc["prepare/", "gpu_hours"] == 0
    assert given["core_hours"].drop(["find/", "export/", "report/"]).min() > 0  # they may end within a second
    assert (given["source"] == "sacct").all()
    assert given["bill"].tolist() == pytest.approx([2 * hours for hours in given["gpu_hours"]])


def accounted(toy: Toy) -> pd.DataFrame:
    """``accounting.csv`` by stage and item, of which the parts make the whole."""
    table = pd.read_csv(toy.run_folder / "report" / "accounting.csv")
    trained = table[table["stage"].isin(["train", "study"])]
    parts = trained[[c for c in table if str(c).endswith("_gpu_hours")]]
    assert (parts > 0).all(axis=None)
    assert parts.sum(axis=1).tolist() == pytest.approx(trained["gpu_hours"].tolist())
    return table.set_index(table["stage"] + "/" + table["item"].fillna(""))


def without(
    cells: Sequence[str], toy: Toy, folder: Path, cluster: Cluster, settings: dict[str, Any] = LONG, **profile: Any
) -> Queued:
    """A copy of a whole run from which 3D trainings and all behind them are gone."""
    shutil.copytree(toy.folder, folder, dirs_exist_ok=True)
    copied = Queued(folder, settings, cluster, **profile)
    for cell in cells:
        copied.forget(f"study/{cell}", f"evaluate/{cell}")
    copied.forget("report/report")
    assert "keep train/2d" in copied.run("--dry-run").stdout  # which remembers where the scans lie, too
    return copied


def requeue(toy: Queued) -> None:
    toy.cluster.command("scontrol", "requeue", toy.job("study"))


def ask_to_stop(toy: Queued) -> None:
    """As Slurm does before the time limit."""
    toy.cluster.command("scancel", "--signal=USR2", toy.job("study"))
    wait_for(lambda: "asked to stop, and saved itself" in log_of(toy, "study"), 60)


def kill_node(toy: Queued) -> None:
    (node, *_) = toy.nodes(toy.job("study"))
    toy.cluster.stop_node(node, hard=True)
    wait_for(lambda: toy.nodes(toy.job("study")) not in ([], [node]), 90)
    toy.cluster.start_node(node)


def restart_controller(toy: Queued) -> None:
    kill_controller(toy.cluster)
    time.sleep(1)
    toy.cluster.start_controller()


def restart_slurmd(toy: Queued) -> None:
    (node, *_) = toy.nodes(toy.job("study"))
    toy.cluster.stop_node(node, hard=False)
    time.sleep(1)
    toy.cluster.start_node(node)


def kill_rank(toy: Queued) -> None:
    """By SIGKILL, as the kernel does it where memory ends."""
    own = str(toy.run_folder)
    found = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"submitit.core._submit" in bytes_of(path) and own in bytes_of(path).decode()
        and b"SLURM_PROCID=1" in bytes_of(path.with_name("environ")).split(b"\0")
    ]  # fmt: skip
    os.kill(found[0], signal.SIGKILL)


@pytest.mark.parametrize(
    ("disturb", "restarts"),
    [
        (requeue, True),
        (ask_to_stop, True),
        (kill_node, True),
        (kill_rank, True),
        (restart_controller, False),
        (restart_slurmd, False),
    ],
)
def test_a_disturbed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, long_locally: Toy, cluster: Cluster, disturb: Callable[[Queued], None], restarts: bool
) -> None:
    toy = without([CELL], long_locally, tmp_path, cluster)
    toy.submit()
    wait_for(lambda: toy.steps() >= 6, WHOLE)
    began = time.monotonic()
    disturb(toy)
    before = toy.steps()
    wait_for(lambda: toy.steps() > before, WHOLE)
    print(f"{disturb.__name__}: {time.monotonic() - began:.1f} s to the first new step")
    toy.await_end()
    assert ("requeued 1 x" in toy.tell("status")) == restarts
    assert accounted(toy).loc[f"study/{CELL}", "starts"] == 1 + restarts
    assert_alike(toy, long_locally)


LIMITED = changed(ranks=[2], training={"epochs": 12, "samples": 40})


def test_a_training_longer_than_its_time_limit_goes_on_in_the_queue(
    tmp_path: Path, long_locally: Toy, cluster: Cluster
) -> None:
    locally = whole_run(tmp_path / "local", LIMITED, long_locally)
    toy = without([CELL], locally, tmp_path / "cluster", cluster, LIMITED, minutes=1, signal_seconds=25)
    toy.submit()
    toy.await_end()
    assert "saved itself after step" in log_of(toy, "study")
    starts = int(accounted(toy)["starts"][f"study/{CELL}"])
    assert starts > 1
    assert f"requeued {starts - 1} x" in toy.tell("status")
    assert_alike(toy, locally)


def test_trainings_of_a_study_can_share_a_job_and_its_nodes(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    """The larger one begins with the ranks that the smaller one leaves idle."""
    nested = changed(ranks=[1, 4], training={"samples": 4}, allocation="one", control_steps=20)
    locally = whole_run(tmp_path / "local", nested, spread_locally)
    toy = without(["3d-s16-r1", "3d-s16-r4"], spread_locally, tmp_path / "cluster", cluster, nested)
    toy.submit()
    toy.await_end()
    assert len([one for one in toy.submissions() if one["stage"] == "study"]) == 1
    assert_alike(toy, locally)
    cells = pd.read_csv(toy.run_folder / "report" / "cells.csv").set_index("cell")
    assert cells.loc["3d-s16-r4", "node_list"] == " ".join(cells["node_list"].dropna()["3d-s16-r4-silent"].split())
    assert (cells["state"] == "done").all()


def test_a_preempted_training_saves_itself_and_goes_on(tmp_path: Path, long_locally: Toy, cluster: Cluster) -> None:
    toy = without([CELL], long_locally, tmp_path, cluster, partition="scavenge")
    toy.submit()
    wait_for(lambda: toy.steps() >= 6, WHOLE)
    began = time.monotonic()
    (node, *_) = toy.nodes(toy.job("study"))
    cluster.command("sbatch", "-p", "debug", "-w", node, "-c2", "-t1", "-o", "/dev/null", "--wrap", "sleep 5")
    wait_for(lambda: "asked to stop, and saved itself" in log_of(toy, "study"), 60)
    print(f"preempted: saved after {time.monotonic() - began:.1f} s")
    toy.await_end()
    print(f"preempted: all done after {time.monotonic() - began:.1f} s")
    assert "requeued 1 x" in toy.tell("status")
    assert_alike(toy, long_locally)


def test_cancel_ends_all_and_the_next_submission_does_the_rest(tmp_path: Path, cluster: Cluster) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, SPREAD, cluster)
    toy.submit()
    wait_for(lambda: (toy.run_folder / "markers" / "prepare" / "toy.json").exists(), WHOLE)
    assert "jobs cancelled" in toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60)
    again = toy.submit()
    assert "prepare" not in again
    assert "report: job" in again or "report (report): job" in again
    toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 10, "partition": "debug"}, "minutes 10 is over the time limit of partition debug, 5"),
        ({"partition": "nowhere"}, "partition nowhere is not one of: debug, gpu, scavenge"),
        ({"gpus_a_task": 3}, "6 GPUs a node are asked for, those of gpu have 4"),
        ({"cpus_a_task": 2}, "4 cores a node are asked for, those of gpu have 2"),
        ({"tasks_a_node": 3}, "4 ranks do not fill whole nodes of 3"),
        ({"nodes": 3}, "nodes"),
        ({"partition": "gpu; reboot"}, "partition"),
    ],
)
def test_impossible_demands_are_refused_before_anything_is_submitted(
    tmp_path: Path, cluster: Cluster, changes: dict[str, Any], message: str
) -> None:
    toy = Queued(tmp_path, SPREAD, cluster, **changes)
    done = toy.run("--on", "cluster.yaml")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (toy.run_folder / "queue.jsonl").exists()


def test_a_cancelled_training_saves_itself_and_says_so(tmp_path: Path, long_locally: Toy, cluster: Cluster) -> None:
    toy = without([CELL], long_locally, tmp_path, cluster)
    toy.submit()
    wait_for(lambda: toy.steps() >= 2, WHOLE)
    cluster.command("scancel", toy.job("study"))
    toy.await_end()
    told = "was asked to stop, and saved itself after step"
    assert told in toy.tell("status")
    assert told in toy.tell("logs", "study")
    assert f"study/{CELL}: failed before: cell {CELL} {told}" in toy.run("--dry-run").stdout
