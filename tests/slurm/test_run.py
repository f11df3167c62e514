"""Whole runs on a real Slurm, disturbed in many ways: each ends as if nothing had happened."""

import copy
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from slurm.devcluster import Cluster, Shape
from tests.conftest import chest, write_nifti
from tests.jobs.test_run import QUARTERDOSE, SETTINGS, Toy, assert_alike, make_toy_scan, wait_for, whole_run
from tests.slurm.conftest import PORT, running

PROFILE: dict[str, Any] = {
    "executor": "slurm", "partition": "gpu", "minutes": 30, "tasks_a_node": 2, "gpus_a_task": 1, "memory_a_cpu": 8192,
    "signal_seconds": 30, "environment": {"GLOO_SOCKET_IFNAME": "lo"},
}  # fmt: skip
WHOLE = 400.0  # seconds within which a run has ended, on a slow machine
CELL = "3d-s16-r2"


class Queued(Toy):
    """A toy run on a cluster."""

    def __init__(self, folder: Path, settings: dict[str, Any], cluster: Cluster, **profile: Any) -> None:
        super().__init__(folder, settings)
        self.cluster = cluster
        self.profile(**profile)

    def profile(self, **changes: Any) -> None:
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump({**PROFILE, **changes}))

    def submit(self, *words: str) -> str:
        done = self.run("--on", "cluster.yaml", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tell(self, *words: str) -> str:
        """What a command of quarterdose says of the run."""
        command = [str(QUARTERDOSE), words[0], str(self.run_folder), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def submissions(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_folder / "queue.jsonl").read_text().splitlines()]

    def job(self, stage: str) -> str:
        """The newest job, or array, of a stage."""
        return str([one["jobs"][0] for one in self.submissions() if one["stage"] == stage][-1])

    def queued(self) -> set[str]:
        mine = {job for one in self.submissions() for job in one["jobs"]}
        return mine & {line.partition("_")[0] for line in self.cluster.command("squeue", "-h", "-o", "%i").split()}

    def await_end(self) -> None:
        wait_for(lambda: not self.queued(), WHOLE)

    def steps(self, cell: str = CELL) -> int:
        path = self.run_folder / "cells" / cell / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def nodes(self, job: str) -> list[str]:
        listed = self.cluster.command("squeue", "-h", "-j", job, "-t", "running", "-o", "%N").strip()
        return self.cluster.command("scontrol", "show", "hostnames", listed).split() if listed else []


def changed(**study: Any) -> dict[str, Any]:
    settings = copy.deepcopy(SETTINGS)
    training = study.pop("training", {})
    settings["train_2d"] = {"ranks": 1, "training": {**settings["train_2d"]["training"], "epochs": 1}}
    settings["study"] = {**settings["study"], **study, "training": {**settings["study"]["training"], **training}}
    return settings


SPREAD = changed(ranks=[1, 4], training={"samples": 4})
LONG = changed(ranks=[2], training={"epochs": 3, "samples": 40, "checkpoint_steps": 4})


@pytest.fixture(scope="module")
def spread_locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return whole_run(tmp_path_factory.mktemp("spread"), SPREAD)


def test_the_whole_graph_on_two_nodes_is_as_that_of_one_machine(
    tmp_path: Path, spread_locally: Toy, cluster: Cluster
) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, SPREAD, cluster)
    began = time.monotonic()
    told = toy.submit()
    assert time.monotonic() - began < 20
    for name in ("find", "prepare", "split", "train (2d)", "transfer", "study (3d-s16-r4)", "evaluate", "report"):
        assert f"{name}: job " in told or f"{name} (" in told
    again = toy.submit()
    assert "nothing to submit" in again
    assert "in the queue" in toy.tell("status")
    wait_for(lambda: toy.nodes(toy.job("study")), WHOLE)
    assert len(toy.nodes(toy.job("study"))) == 2
    assert "on node[" in toy.tell("status")
    toy.await_end()
    assert toy.tell("status").count(" done ") == 12  # eleven items, and the look for scans
    assert_alike(toy, spread_locally)
    logs = toy.run_folder / "logs" / "slurm"
    assert {path.stat().st_mode & 0o077 for path in (logs, toy.run_folder / "logs")} == {0}
    assert "nothing to submit" in toy.submit()
    given = accounted(toy)
    assert [given.loc["study/3d-s16-r4", name] for name in ("gpus", "starts")] == [4, 1]
    assert given.loc["prepare/", "gpu_hours"] == 0
    assert given["core_hours"].drop(["find/", "report/"]).min() > 0  # both may end within a second
    assert (given["source"] == "sacct").all()


def accounted(toy: Toy) -> pd.DataFrame:
    """``accounting.csv`` by stage and item, of which the parts make the whole."""
    table = pd.read_csv(toy.run_folder / "report" / "accounting.csv")
    trained = table[table["stage"].isin(["train", "study"])]
    parts = trained[[c for c in table if str(c).endswith("_gpu_hours")]]
    assert (parts > 0).all(axis=None)
    assert parts.sum(axis=1).tolist() == pytest.approx(trained["gpu_hours"].tolist())
    return table.set_index(table["stage"] + "/" + table["item"].fillna(""))


@pytest.fixture(scope="module")
def long_locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run with one long training of two ranks."""
    return whole_run(tmp_path_factory.mktemp("long"), LONG)


def without_the_study(toy: Toy, folder: Path, cluster: Cluster, **profile: Any) -> Queued:
    """A copy of a whole run from which the 3D training and all behind it are gone."""
    shutil.copytree(toy.folder, folder, dirs_exist_ok=True)
    copied = Queued(folder, LONG, cluster, **profile)
    for name in ("cells/" + CELL, "markers/study", "markers/evaluate", "markers/report", "evaluation", "report"):
        shutil.rmtree(copied.run_folder / name)
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
    toy.cluster.kill_controller()
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
        if b"submitit.core._submit" in _bytes(path) and own in _bytes(path).decode()
        and b"SLURM_PROCID=1" in _bytes(path.with_name("environ")).split(b"\0")
    ]  # fmt: skip
    os.kill(found[0], signal.SIGKILL)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


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
    toy = without_the_study(long_locally, tmp_path, cluster)
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


def test_a_preempted_training_saves_itself_and_goes_on(tmp_path: Path, long_locally: Toy, cluster: Cluster) -> None:
    toy = without_the_study(long_locally, tmp_path, cluster, partition="scavenge")
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


def log_of(toy: Queued, stage: str) -> str:
    logs = sorted((toy.run_folder / "logs" / "slurm").glob(f"{toy.job(stage)}_*log.out"))
    return "".join(path.read_text() for path in logs)


TWO_SCANS: dict[str, Any] = {**SETTINGS, "data": {**SETTINGS["data"], "workers": 2}}


@pytest.fixture(scope="module")
def prepared_locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return prepared(Toy(tmp_path_factory.mktemp("two"), TWO_SCANS))


def prepared(toy: Toy) -> Toy:
    make_two_scans(toy.folder)
    done = subprocess.run([str(QUARTERDOSE), "prepare", "toy.yaml"], cwd=toy.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return toy


def make_two_scans(folder: Path) -> None:
    for number, name in enumerate(("a", "b")):
        write_nifti(folder / "scans" / f"{name}.nii.gz", chest(48) + 3 * number)


def submit_preparation(toy: Queued) -> None:
    done = subprocess.run([str(QUARTERDOSE), "prepare", "toy.yaml", "--on", "cluster.yaml"], cwd=toy.folder,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def assert_same_pairs(ours: Toy, theirs: Toy) -> None:
    manifests = [pd.read_csv(toy.run_folder / "data" / "manifest.csv") for toy in (ours, theirs)]
    kept = [column for column in manifests[0] if not str(column).endswith("seconds")]
    pd.testing.assert_frame_equal(manifests[0][kept], manifests[1][kept])  # with the pairs' digests
    assert (ours.run_folder / "data" / "split.json").read_text() == (
        theirs.run_folder / "data" / "split.json"
    ).read_text()


def half_written(toy: Toy) -> bool:
    return any((toy.run_folder / "data").glob("toy/.*.tmp/*/c/*"))


def workers(toy: Queued) -> list[int]:
    """Processes of the array, by age."""
    found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
             if b"submitit.core._submit" in _bytes(path) and str(toy.run_folder) in _bytes(path).decode()
             and b"SLURM_ARRAY_TASK_ID" in _bytes(path.with_name("environ"))]  # fmt: skip
    return sorted(pid for pid in found if b"srun" not in _bytes(Path(f"/proc/{pid}/cmdline")))


def test_a_worker_killed_within_a_zarr_write_starts_again(
    tmp_path: Path, prepared_locally: Toy, cluster: Cluster
) -> None:
    make_two_scans(tmp_path)
    toy = Queued(tmp_path, TWO_SCANS, cluster)
    submit_preparation(toy)
    wait_for(lambda: half_written(toy), WHOLE)
    for pid in workers(toy):
        os.kill(pid, signal.SIGKILL)
    toy.await_end()
    assert "requeued 1 x" in toy.tell("status")
    assert_same_pairs(toy, prepared_locally)
    assert not half_written(toy)


def test_the_items_of_a_cancelled_task_are_done_by_another(
    tmp_path: Path, prepared_locally: Toy, cluster: Cluster
) -> None:
    make_two_scans(tmp_path)
    toy = Queued(tmp_path, TWO_SCANS, cluster)
    submit_preparation(toy)
    wait_for(lambda: half_written(toy), WHOLE)
    cluster.command("scancel", f"{toy.job('prepare')}_0")
    toy.await_end()
    assert_same_pairs(toy, prepared_locally)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which a cluster that is started later sees."""
    folder = tmp_path / "runs" / "toy" / "data"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_its_items_and_the_next_run_does_them(
    tmp_path: Path, prepared_locally: Toy, small_disk: Path
) -> None:
    with running(Shape(nodes=2, accounting=False, port=PORT + 40)) as cluster:
        make_two_scans(tmp_path)
        toy = Queued(tmp_path, TWO_SCANS, cluster)
        submit_preparation(toy)
        toy.await_end()
        assert "No space left on device" in toy.tell("status")
        subprocess.run(["mount", "-o", "remount,size=500M", str(small_disk)], check=True)
        submit_preparation(toy)
        toy.await_end()
        assert_same_pairs(toy, prepared_locally)


def test_names_do_not_reach_a_shell(tmp_path: Path, cluster: Cluster) -> None:
    """Of folders and of scans."""
    folder = tmp_path / 'a b;$(touch hacked)`touch hacked`"'
    folder.mkdir()
    hostile = "$(touch hacked) <b>&;.nii.gz"
    write_nifti(folder / "scans" / hostile, chest(48))
    settings = {
        **SETTINGS,
        "data": {**SETTINGS["data"], "sources": [{"kind": "nifti", "path": "scans", "dataset": "t"}]},
    }
    toy = Queued(folder, settings, cluster)
    submit_preparation(toy)
    toy.await_end()
    manifest = pd.read_csv(toy.run_folder / "data" / "manifest.csv")
    assert manifest["state"].tolist() == ["kept"]
    assert not list(tmp_path.rglob("hacked"))
    assert not Path("hacked").exists()


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
    toy = without_the_study(long_locally, tmp_path, cluster)
    toy.submit()
    wait_for(lambda: toy.steps() >= 2, WHOLE)
    cluster.command("scancel", toy.job("study"))
    toy.await_end()
    told = "was asked to stop, and saved itself after step"
    assert told in toy.tell("status")
    assert told in toy.tell("logs", "study")
    assert f"study/{CELL}: failed before: cell {CELL} {told}" in toy.run("--dry-run").stdout
