"""Preparation on a real Slurm, disturbed in several ways: the pairs are those of an undisturbed one."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slurm.devcluster import Cluster, Shape
from tests.command_line import QUARTERDOSE
from tests.full_disk import small_disk
from tests.scans import chest, write_nifti
from tests.slurm.clusters import PORT, running
from tests.slurm.queued import WHOLE, Queued, bytes_of
from tests.toy_runs import SETTINGS, Toy, any_file, wait_for

pytestmark = pytest.mark.slurm

TWO_SCANS: dict[str, Any] = {**SETTINGS, "data": {**SETTINGS["data"], "workers": 2}}


@pytest.fixture(scope="module")
def prepared_locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return prepared(Toy(tmp_path_factory.mktemp("two"), TWO_SCANS))


def prepared(toy: Toy) -> Toy:
    make_two_scans(toy.folder)
    completed = subprocess.run(
        [str(QUARTERDOSE), "prepare", "toy.yaml"], cwd=toy.folder, capture_output=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return toy


def make_two_scans(folder: Path) -> None:
    for number, name in enumerate(("a", "b")):
        write_nifti(folder / "scans" / f"{name}.nii.gz", chest(48) + 3 * number)


def submit_preparation(toy: Queued) -> None:
    completed = subprocess.run([str(QUARTERDOSE), "prepare", "toy.yaml", "--on", "cluster.yaml"], cwd=toy.folder,
                               capture_output=True, text=True, check=False)  # fmt: skip
    assert completed.returncode == 0, completed.stderr


def assert_same_pairs(ours: Toy, theirs: Toy) -> None:
    manifests = [pd.read_csv(toy.run_folder / "data" / "manifest.csv") for toy in (ours, theirs)]
    columns = [column for column in manifests[0] if not str(column).endswith("seconds")]
    pd.testing.assert_frame_equal(manifests[0][columns], manifests[1][columns])  # with the pairs' digests
    assert (ours.run_folder / "data" / "split.json").read_text() == (
        theirs.run_folder / "data" / "split.json"
    ).read_text()


def half_written(toy: Toy) -> bool:
    return any_file(toy.run_folder / "data", "toy/.*.tmp/*/c/*")


def workers(toy: Queued) -> list[int]:
    """Processes of the array, by age."""
    pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"slurm.calls" in bytes_of(path) and str(toy.run_folder) in bytes_of(path).decode()
            and b"SLURM_ARRAY_TASK_ID" in bytes_of(path.with_name("environ"))]  # fmt: skip
    return sorted(pid for pid in pids if b"srun" not in bytes_of(Path(f"/proc/{pid}/cmdline")))


@pytest.fixture
def half_way(tmp_path: Path, cluster: Cluster) -> Queued:
    """A preparation by two tasks that are at their pairs."""
    make_two_scans(tmp_path)
    toy = Queued(tmp_path, TWO_SCANS, cluster)
    submit_preparation(toy)
    wait_for(lambda: half_written(toy), WHOLE)
    return toy


def test_a_worker_killed_within_a_zarr_write_starts_again(half_way: Queued, prepared_locally: Toy) -> None:
    toy = half_way
    for pid in workers(toy):
        os.kill(pid, signal.SIGKILL)
    toy.await_end()
    assert "requeued 1 x" in toy.tell("status")
    assert_same_pairs(toy, prepared_locally)
    assert not half_written(toy)


def test_the_items_of_a_cancelled_task_are_done_by_another(half_way: Queued, prepared_locally: Toy) -> None:
    toy = half_way
    toy.cluster.command("scancel", f"{toy.job('prepare')}_0")
    toy.await_end()
    assert_same_pairs(toy, prepared_locally)


@pytest.fixture
def data_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which a cluster that is started later sees."""
    folder = tmp_path / "runs" / "toy" / "data"
    folder.mkdir(parents=True)
    with small_disk(folder, "size=1M"):
        yield folder


def test_a_full_disk_fails_its_items_and_the_next_run_does_them(
    tmp_path: Path, prepared_locally: Toy, data_disk: Path
) -> None:
    with running(Shape(nodes=2, accounting=False, port=PORT + 40)) as cluster:
        make_two_scans(tmp_path)
        toy = Queued(tmp_path, TWO_SCANS, cluster)
        submit_preparation(toy)
        toy.await_end()
        assert "No space left on device" in toy.tell("status")
        subprocess.run(["mount", "-o", "remount,size=500M", str(data_disk)], check=True)
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


def test_an_array_longer_than_slurm_takes_becomes_several(tmp_path: Path, prepared_locally: Toy) -> None:
    with running(Shape(nodes=2, accounting=False, port=PORT + 40, array=4)) as cluster:
        make_two_scans(tmp_path)
        toy = Queued(tmp_path, {**TWO_SCANS, "data": {**TWO_SCANS["data"], "workers": 6}}, cluster)
        submit_preparation(toy)
        (arrays,) = [submission["jobs"] for submission in toy.submissions() if submission["stage"] == "prepare"]
        assert len(arrays) == 2
        toy.await_end()
        assert_same_pairs(toy, prepared_locally)
