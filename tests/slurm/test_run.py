"""Whole runs on a real Slurm."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slurm.devcluster import Cluster
from tests.command_line import quarterdose_within
from tests.slurm.queued import CELL, SPREAD, WHOLE, Queued, accounted, changed, without
from tests.toy_runs import Toy, assert_alike, make_toy_scan, wait_for, whole_run

pytestmark = [pytest.mark.slurm, pytest.mark.whole]


def test_the_whole_graph_on_two_nodes_is_as_that_of_one_machine(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, SPREAD, cluster)
    start = time.monotonic()
    output = toy.submit()
    assert time.monotonic() - start < 20
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
        assert f"{name}: job " in output or f"{name} (" in output
    resubmission = toy.submit()
    assert "nothing to submit" in resubmission
    assert "in the queue" in toy.tell("status")
    wait_for(lambda: toy.nodes(toy.job("study")), WHOLE, pause=0.2)
    assert len(toy.nodes(toy.job("study"))) == 2
    assert "on node[" in toy.tell("status")
    toy.await_end()
    assert toy.tell("status").count(" done ") == 14  # thirteen items, and the look for scans
    assert_alike(toy, spread_locally)
    logs = toy.run_folder / "logs" / "slurm"
    assert {path.stat().st_mode & 0o077 for path in (logs, toy.run_folder / "logs")} == {0}
    assert "nothing to submit" in toy.submit()
    usage = accounted(toy)
    assert [usage.loc["study/3d-s16-r4", name] for name in ("gpus", "starts")] == [4, 1]
    assert usage.loc["prepare/", "gpu_hours"] == 0
    busy = ["prepare/", "train/2d", "study/3d-s16-r1", "study/3d-s16-r4", "evaluate/"]  # others may end within a second
    assert usage.loc[busy, "core_hours"].min() > 0
    assert (usage["source"] == "sacct").all()
    assert usage["bill"].tolist() == pytest.approx([2 * hours for hours in usage["gpu_hours"]])


def test_trainings_of_a_study_can_share_a_job_and_its_nodes(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    """The larger one begins with the ranks that the smaller one leaves idle."""
    nested = changed(ranks=[1, 2], allocation="one", control_steps=20)
    locally = whole_run(tmp_path / "local", nested, spread_locally)
    toy = without(["3d-s16-r1"], spread_locally, tmp_path / "cluster", cluster, nested, tasks_a_node=1)
    toy.submit()
    toy.await_end()
    assert len([submission for submission in toy.submissions() if submission["stage"] == "study"]) == 1
    assert_alike(toy, locally)
    cells = pd.read_csv(toy.run_folder / "report" / "cells.csv").set_index("cell")
    assert cells.loc[CELL, "node_list"] == " ".join(cells["node_list"].dropna()["3d-s16-r2-silent"].split())
    assert len(str(cells.loc[CELL, "node_list"]).split()) == 2
    assert (cells["state"] == "done").all()


def test_cancel_ends_all_and_the_next_submission_does_the_rest(tmp_path: Path, cluster: Cluster) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, SPREAD, cluster)
    toy.submit()
    local = toy.run()
    assert local.returncode == 2
    assert re.search(r"jobs [\d, ]+ of this run are in Slurm's queue: wait for them .* or end them first", local.stderr)
    wait_for(lambda: (toy.run_folder / "markers" / "prepare" / "toy.json").exists(), WHOLE)
    assert "jobs cancelled" in toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60, pause=0.2)
    resubmission = toy.submit()
    assert "prepare" not in resubmission
    assert "report: job" in resubmission or "report (report): job" in resubmission
    toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60, pause=0.2)
    shutil.copy(tmp_path / "scans" / "toy.nii.gz", tmp_path / "scans" / "new.nii.gz")
    assert "prepare (new): job" in toy.submit()  # the sources are looked through at each submission
    toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60, pause=0.2)


def test_each_job_asks_for_the_features_of_its_own_partition(tmp_path: Path, cluster: Cluster) -> None:
    make_toy_scan(tmp_path)
    features = {"constraint": "a100", "worker_constraint": "emulated"}
    toy = Queued(tmp_path, SPREAD, cluster, worker_partition="scavenge", **features)
    toy.submit()
    jobs = {toy.job(stage): stage for stage in ("prepare", "train", "evaluate", "report")}
    assert {submission["cluster"] for submission in toy.submissions()} == {"dev"}
    lines = cluster.command("squeue", "-h", "-t", "all", "-o", "%F %P %f", "-j", ",".join(jobs)).splitlines()
    toy.tell("cancel")
    requests = {tuple(line.split()) for line in lines}
    assert {(jobs[job], partition, feature) for job, partition, feature in requests} == {
        ("prepare", "scavenge", "emulated"),
        ("train", "gpu", "a100"),
        ("evaluate", "gpu", "a100"),
        ("report", "scavenge", "emulated"),
    }
    wait_for(lambda: not toy.queued(), 60, pause=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 10, "partition": "debug"}, "minutes 10 is over the time limit of partition debug, 5"),
        ({"partition": "nowhere"}, "partition nowhere is not one of: debug, gpu, scavenge"),
        ({"partition": "nowhere,moon"}, "partition moon is not one of: debug, gpu, scavenge"),
        ({"gpus_a_task": 3}, "asked for: 6 GPUs a node; those of gpu have 4"),
        ({"cpus_a_task": 2}, "asked for: 4 cores a node; those of gpu have 2"),
        ({"cpus_a_worker": 3}, "asked for: 3 cores a node; those of gpu have 2"),
        ({"memory_a_cpu": 40000}, "asked for: 80000 MiB (cores x memory_a_cpu) a node; those of gpu have 65536"),
        ({"worker_constraint": "fast"}, "worker_constraint fast is of the nodes of worker_partition, which is not set"),
        ({"worker_partition": "moon"}, "partition moon is not one of: debug, gpu, scavenge"),
        ({"tasks_a_node": 1, "gpus_a_task": 4, "cpus_a_task": 2, "memory_a_cpu": 32769}, "65538 MiB"),
        ({"account": "moon"}, "account moon is not one of user root: root"),
        ({"qos": "moon"}, "qos moon is not one of user root: normal"),
        ({"tasks_a_node": 3}, "4 ranks do not fill whole nodes of 3"),
        ({"nodes": 3}, "nodes"),
        ({"partition": "gpu; reboot"}, "partition"),
    ],
)
def test_impossible_demands_are_refused_before_anything_is_submitted(
    tmp_path: Path, cluster: Cluster, changes: dict[str, Any], message: str
) -> None:
    toy = Queued(tmp_path, SPREAD, cluster, **changes)
    completed = quarterdose_within(toy.folder, "run", "toy.yaml", "--on", "cluster.yaml")
    assert completed.returncode == 2
    assert message in completed.stderr
    assert len(completed.stderr.splitlines()) == 1
    assert not (toy.run_folder / "queue.jsonl").exists()


def test_a_cancelled_training_saves_itself_and_says_so(tmp_path: Path, spread_locally: Toy, cluster: Cluster) -> None:
    endless = changed(ranks=[2], training={"epochs": 1000, "samples": 40})
    toy = without([CELL], spread_locally, tmp_path, cluster, endless)
    toy.submit()
    toy.await_steps(CELL, 2)
    toy.write(changed(ranks=[2], training={"epochs": 1000, "samples": 44}))
    refused = toy.run("--on", "cluster.yaml")
    assert refused.returncode == 2  # its outcome would be judged and reported under these
    assert f"study/{CELL} runs in job {toy.job('study')} under other settings" in refused.stderr
    toy.write(endless)
    cluster.command("scancel", toy.job("study"))
    wait_for(lambda: toy.job("study") not in toy.queued(), 60, pause=0.2)
    toy.tell("cancel")  # the judgement and the report of what there is
    toy.await_end()
    words = "was asked to stop, and saved itself after step"
    assert words in toy.tell("status")
    assert words in toy.tell("logs", "study")
    assert f"study/{CELL}: failed before: cell {CELL} {words}" in toy.run("--dry-run").stdout


def test_restarts_that_are_used_up_are_said_with_the_way_out(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    endless = changed(ranks=[2], training={"epochs": 1000, "samples": 40})
    toy = without([CELL], spread_locally, tmp_path, cluster, endless, restarts=0)
    toy.submit()
    toy.await_steps(CELL, 2)
    cluster.command("scancel", "--signal=USR2", toy.job("study"))
    wait_for(lambda: toy.job("study") not in toy.queued(), 60, pause=0.2)
    toy.tell("cancel")
    (line,) = [line for line in toy.tell("status").splitlines() if line.split()[:2] == ["study", CELL]]
    assert "the restarts of this job (0 of 0) are used up, and it was stopped because of a signal" in line
    assert "raise `restarts` or `minutes` in the profile and submit again; it goes on from step" in line
    assert f"job {toy.job('study')} was stopped and its restarts (0) are used up" in line
    assert "was asked to stop" not in line
    assert "cause: restarts used up: 0 of 0" in toy.tell("logs", "study")
