"""Ranks of one item that fail, die or stop: the job ends soon, and says what the rank said that was at fault."""

import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.group_writer import SHARD_SLICES
from data_prep.settings_file import load_settings
from data_prep.split import Split
from jobs.engine.launch import LocalProcesses, run_submitted_rank
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.stages.graph import graph_of, open_graph
from jobs.stages.train import TrainDonors
from pipeline.sampling import choose
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from pipeline.training.world import DistributionError, World
from slurm.profile import load_profile
from slurm.submit import submit
from tests.full_disk import small_disk
from tests.markers import mark_split
from tests.toy_runs import SETTINGS, Toy, copied_run, wait_for

ALONE: dict[str, Any] = {**SETTINGS, "study": {**SETTINGS["study"], "ranks": [1]}}


@pytest.fixture
def toy(tmp_path: Path, undisturbed: Toy) -> Toy:
    """A run whose scan is prepared: a whole one without its trainings."""
    toy = copied_run(tmp_path, undisturbed, ALONE)
    toy.forget("train/2d", "study/3d-s16-r1", "study/3d-s16-r2")
    return toy


def _hang(rank: int, folder: Path) -> None:
    """Rank 1 dies; the others, as if in a collective, hear no SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / str(rank)).touch()
    while rank == 1 and len(list(folder.iterdir())) < 3:
        time.sleep(0.01)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.ranks
def test_a_killed_rank_is_named_and_those_that_hang_are_killed(tmp_path: Path) -> None:
    launched = LocalProcesses([(_hang, (tmp_path,), 3)], [], tmp_path)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 3)
    start = time.monotonic()
    wait_for(launched.have_ended, 30)
    assert time.monotonic() - start < 20
    assert launched.fault().startswith("rank 1: process ")
    assert launched.fault().endswith("died of SIGKILL")


def _fail(rank: int) -> None:
    raise ValueError("rank 0 is at fault")


def _open(rank: int) -> None:
    Path("/missing").open()  # noqa: SIM115 - it is not there


@pytest.mark.ranks
def test_the_words_of_a_failed_process_are_in_no_folder_and_its_logs_are_private(tmp_path: Path) -> None:
    """Who could write them would say what the parent tells its user; and a disk may be full."""
    launched = LocalProcesses([(_fail, (), 1)], [], tmp_path / "logs")
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
    wait_for(launched.have_ended, 30)
    assert launched.fault() == "rank 0 is at fault"
    assert not list((tmp_path / "logs").iterdir())
    (tmp_path / "logs").chmod(0o770)
    with pytest.raises(UserError, match="can be written by its group"):
        LocalProcesses([(_fail, (), 1)], [], tmp_path / "logs")


@pytest.mark.ranks
def test_an_error_of_the_system_is_told_without_its_number(tmp_path: Path) -> None:
    launched = LocalProcesses([(_open, (), 1)], [], tmp_path)
    wait_for(launched.have_ended, 30)
    assert launched.fault() == "No such file or directory: '/missing'"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder without room for another file."""
    with small_disk(tmp_path, "nr_inodes=1,mode=700"):
        yield tmp_path


@pytest.mark.ranks
def test_a_failed_process_tells_its_words_where_the_disk_is_full(full_disk: Path) -> None:
    launched = LocalProcesses([(_fail, (), 1)], [], full_disk)
    wait_for(launched.have_ended, 30)
    assert launched.fault() == "rank 0 is at fault"


def _damage_for_rank_1(toy: Toy) -> None:
    """Flip a byte of a slice that rank 1 reads in the first step of the 2D training, and rank 0 does not."""
    settings = load_settings(toy.folder / "toy.yaml", RunSettings)
    cell = next(cell for cell in cells_of(settings) if cell.dims == 2)
    (segment,) = Split.from_json(json.loads((toy.run_folder / "data/split.json").read_text())).parts["train"]
    read = [
        int(segment.start + choose(cell.sampling, len(segment), 1, np.random.default_rng((cell.training.seed, i)))[0])
        for i in range(4)
    ]
    z = next(z for z in read[2:] if z not in read[:2])
    shard = toy.run_folder / "data/toy/toy.zarr/full_dose/c" / str(z // SHARD_SLICES) / "0/0"
    content = bytearray(shard.read_bytes())
    (offset, _) = struct.unpack_from("<QQ", content, len(content) - 4 - 16 * (SHARD_SLICES - z % SHARD_SLICES))
    content[offset + 20] ^= 255
    shard.write_bytes(content)


@pytest.mark.whole
def test_the_message_is_that_of_the_rank_at_fault(toy: Toy) -> None:
    _damage_for_rank_1(toy)
    completed = toy.run()
    assert completed.returncode == 2
    assert "full_dose does not hold what was written: prepare the scan again" in completed.stderr
    assert "lost its connection" not in completed.stdout + completed.stderr


@pytest.mark.whole
def test_a_stopped_rank_ends_its_submitted_job(toy: Toy) -> None:
    """Nobody dies by himself: the other rank hangs, and submitit waits for both."""
    command = [*toy.command("--on", "local"), "--set", "networks.2d.training.epochs=5000"]
    with subprocess.Popen(command, cwd=toy.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        wait_for(lambda: list(toy.run_folder.glob("cells/2d/checkpoints/*.pt")))
        rank_1 = _rank(toy.folder, 1)
        os.kill(rank_1, signal.SIGSTOP)
        start = time.monotonic()
        output, _ = run.communicate(timeout=120)
    assert time.monotonic() - start < 60  # 22 s on a quiet machine
    assert run.returncode == 1
    assert "rank 1 of 2 gave no sign of life for 15 s" in output
    wait_for(lambda: not Path(f"/proc/{rank_1}").exists(), 30)


def _rank(folder: Path, rank: int) -> int:
    """Pid of a rank of a submitted job."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder:
                environment = (entry / "environ").read_bytes().split(b"\0")
                if b"SUBMITIT_LOCAL_GLOBALID=%d" % rank in environment:
                    return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
def test_a_job_of_another_size_than_was_asked_for_trains_nothing(tmp_path: Path) -> None:
    settings = RunSettings.model_validate({**ALONE, "runs": tmp_path})
    folder = RunFolder.of(settings)
    folder.record()
    folder.data.mkdir()
    for name in ("manifest.csv", "split.json"):
        (folder.data / name).touch()
    mark_split(graph_of(folder).stages["split"])
    meeting = f"file://{tmp_path}/meet"
    job = submit(
        load_profile("local"), tmp_path / "logs", 1, run_submitted_rank, open_graph, folder.root, "train", "2d", meeting
    )
    wait_for(job.has_ended)
    marker = Markers(folder.root, "train").read("2d")
    assert marker is not None
    assert (marker.state, marker.reason) == (
        "failed", "cell 2d is for 2 ranks, but its job says that this process is one of 1"
    )  # fmt: skip
    assert not folder.cell("2d").exists()
    with pytest.raises(DistributionError, match="but its job says that this process is one of 3"):
        TrainDonors(folder).run("2d", World(1, 3, 1, meeting), lambda count, total, note: None)
