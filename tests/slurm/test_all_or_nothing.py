"""Submissions on a real Slurm that fail: nothing is left of them in the queue, in the records or in the markers."""

import os
import pickle
import pwd
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from data_prep.errors import UserError
from slurm.devcluster import Cluster
from slurm.profile import Profile
from slurm.submit import JobRequest, enqueue
from tests.command_line import QUARTERDOSE
from tests.data_prep.dicom_series import write_series
from tests.full_disk import small_disk
from tests.jobs.test_attack import Touch, as_other
from tests.scans import chest
from tests.slurm.clusters import kill_controller
from tests.slurm.queued import PROFILE, Queued, changed
from tests.slurm.test_submit import write_line
from tests.toy_models import SPACING, toy_model
from tests.toy_runs import Toy, make_toy_scan, wait_for

pytestmark = pytest.mark.slurm

USER = pwd.getpwuid(os.geteuid()).pw_name


def jobs(cluster: Cluster) -> list[str]:
    """All jobs that neither ended nor are being ended."""
    return cluster.command("squeue", "-h", "-o", "%A", "-t", "PENDING,RUNNING,SUSPENDED").split()


@contextmanager
def at_most(cluster: Cluster, count: int) -> Iterator[None]:
    """Slurm takes no more than ``count`` jobs from here on."""
    limit = count + len(jobs(cluster))
    cluster.command("sacctmgr", "-i", "modify", "user", USER, "set", f"MaxSubmitJobs={limit}")
    try:
        yield
    finally:
        cluster.command("sacctmgr", "-i", "modify", "user", USER, "set", "MaxSubmitJobs=-1")


@contextmanager
def stopped(cluster: Cluster, when: Callable[[], object]) -> Iterator[None]:
    """The controller does not answer as soon as the condition holds, until the block ends."""
    pid = dict(cluster.daemons())["slurmctld"]
    assert pid

    def watch() -> None:
        wait_for(when, pause=0.001)
        os.kill(pid, signal.SIGSTOP)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        watcher.join()
        os.kill(pid, signal.SIGCONT)


def assert_one_sentence(process: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert process.returncode == code, process.stderr
    assert process.stderr.startswith("quarterdose: ")
    assert process.stderr.count("\n") == 1, process.stderr
    for word in words:
        assert word in process.stderr


def markers(toy: Toy) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in toy.run_folder.glob("markers/*/*.json")}


def test_a_refused_job_takes_those_before_it_back(tmp_path: Path, undisturbed: Toy, cluster: Cluster) -> None:
    subprocess.run(["cp", "-a", f"{undisturbed.folder}/.", str(tmp_path)], check=True)
    toy = Queued(tmp_path, changed(ranks=[1, 2], training={"learning_rate": 0.002}), cluster)
    assert "keep prepare/toy" in toy.run("--dry-run").stdout  # which remembers where the scans lie, too
    before = markers(toy)
    with at_most(cluster, 1):
        refused = toy.run("--on", "cluster.yaml")
    assert_one_sentence(refused, 2, "Slurm took no job of this profile: ", "job submit limit")
    assert jobs(cluster) == []
    assert not (toy.run_folder / "queue.jsonl").exists()
    assert markers(toy) == before
    submitted = [line.split()[0] for line in toy.submit().splitlines()]
    assert submitted[:2] == ["train", "transfer"]
    assert markers(toy) != before  # of what is trained again they are gone, now that its jobs are in the queue
    toy.tell("cancel")
    wait_for(lambda: not toy.queued(), 60, pause=0.2)


def test_a_controller_that_is_gone_is_one_sentence(tmp_path: Path, cluster: Cluster) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, changed(), cluster)
    kill_controller(cluster)
    try:
        refused = toy.run("--on", "cluster.yaml")
    finally:
        cluster.start_controller()
    assert_one_sentence(refused, 1, "Unable to contact slurm controller")
    lines = cluster.command("squeue", "-h", "-o", "%A %Z").splitlines()
    assert [line for line in lines if line.endswith(str(toy.folder))] == []  # it may remember jobs of other tests
    assert not (toy.run_folder / "queue.jsonl").exists()


def test_a_controller_that_falls_silent_half_way_leaves_jobs_that_are_named(tmp_path: Path, cluster: Cluster) -> None:
    """The job whose answer was lost may come into the queue when the controller is back, but does nothing."""
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, changed(), cluster)
    queue = toy.run_folder / "queue.jsonl"
    with stopped(cluster, queue.exists):
        refused = toy.run("--on", "cluster.yaml")
    remaining = [job for submission in toy.submissions() for job in submission["jobs"]]
    command = f"scancel {' '.join(remaining)}"
    assert_one_sentence(refused, 1, "timed out", "is still in the queue", f"take it back with `{command}`")
    cluster.command(*command.split())
    assert len(list(toy.run_folder.glob("logs/slurm/*.calls"))) == len(remaining)
    wait_for(lambda: jobs(cluster) == [], 60, pause=0.2)
    assert not list((toy.run_folder / "markers").glob("*/*"))


def test_a_full_or_read_only_run_folder_is_refused_before(tmp_path: Path, cluster: Cluster) -> None:
    make_toy_scan(tmp_path)
    toy = Queued(tmp_path, changed(), cluster)
    (tmp_path / "runs").mkdir()
    with small_disk(tmp_path / "runs", "size=512k,mode=0755"):
        full = toy.run("--on", "cluster.yaml")
        assert_one_sentence(full, 2, f"{toy.run_folder} cannot be written: No space left on device")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "runs")], check=True)
        assert_one_sentence(toy.run("--on", "cluster.yaml"), 2, "cannot be written: Read-only file system")
    assert jobs(cluster) == []


def test_an_array_in_parts_is_submitted_as_a_whole_or_not_at_all(tmp_path: Path, cluster: Cluster) -> None:
    profile = Profile(executor="slurm", partition="gpu", memory_a_cpu=1024)
    calls = [(tmp_path / str(number),) for number in range(2005)]  # Slurm takes 2001 in an array
    with at_most(cluster, 2003), pytest.raises(UserError, match="job submit limit"):
        enqueue(profile, tmp_path / "logs", write_line, JobRequest("lines", calls))
    wait_for(lambda: jobs(cluster) == [], 60, pause=0.2)


def test_who_replaces_the_folder_of_a_waiting_job_runs_nothing(cluster: Cluster) -> None:
    """Its parent became writable for the group after the submission; the other user is in the group."""
    with tempfile.TemporaryDirectory(prefix="quarterdose-shared-") as name:
        shared = Path(name)
        logs, proof, attack = shared / "logs", shared / "proof", shared / "attack"
        waiting = cluster.command("sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true").strip()
        profile = Profile(executor="slurm", partition="gpu", memory_a_cpu=1024)
        request = JobRequest("line", [(proof,)], dependency=f"afterany:{waiting}")
        (job,) = enqueue(profile, logs, write_line, request)
        (calls,) = logs.glob("*.calls")
        (shared / "evil").write_bytes(pickle.dumps(Touch(attack)))
        shared.chmod(0o775)
        as_other('mv "$1" "$1.old"; mkdir -m 777 "$1"; cp "$2" "$1/$3"', logs, shared / "evil", calls.name)
        cluster.command("scontrol", "release", waiting)
        wait_for(lambda: job not in jobs(cluster), 60, pause=0.2)
        (log,) = logs.glob(f"{job}_*log.out")
        assert f"{calls} was changed after the submission, and nothing of it is run" in log.read_text()
        assert not proof.exists()
        assert not attack.exists()


def test_denoising_is_refused_without_a_job(tmp_path: Path, cluster: Cluster) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, chest(4), SPACING)
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(PROFILE))
    command = [str(QUARTERDOSE), "denoise", "a", "b", "--model", str(toy_model(tmp_path)), "--out", "out"]
    with at_most(cluster, 1):
        refused = subprocess.run([*command, "--on", "cluster.yaml"], cwd=tmp_path, capture_output=True, text=True,
                                 check=False)  # fmt: skip
    assert_one_sentence(refused, 2, "job submit limit")
    assert jobs(cluster) == []
    assert not list(tmp_path.rglob("*.calls"))
