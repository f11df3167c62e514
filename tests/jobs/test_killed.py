"""What killed commands leave: no process, and no file that the next one does not remove."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import pytest

from data_prep.files import is_locked, sibling
from jobs.engine.leftovers import remove_leftovers_of
from jobs.engine.run_folder import RunFolder
from jobs.stages.graph import graph_of
from tests.jobs.hanging import call, hold, launch
from tests.toy_runs import SETTINGS, Toy, wait_for, whole_run


def start(
    function: Callable[[Path], None], folder: Path, temporary_folder: str | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command that calls a function; a child of multiprocessing would share its parent's temporary folder."""
    code = f"import pathlib, tests.jobs.hanging as h; h.{function.__name__}(pathlib.Path({str(folder)!r}))"
    environment = {**os.environ, "TMPDIR": temporary_folder or gettempdir()}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=environment, start_new_session=True
    )


@pytest.fixture
def temporary_folder() -> Iterator[str]:
    """A folder in which the path of a socket is no longer than the system takes."""
    with TemporaryDirectory(prefix="q") as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("kill", "number"), [(os.kill, signal.SIGKILL), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGHUP)]
)
def test_ranks_that_hear_nothing_end_with_their_command(
    kill: Callable[[int, int], None], number: int, tmp_path: Path, temporary_folder: str
) -> None:
    """And so do the processes that read for them, and the folder of the sockets of all.

    ``timeout`` sends SIGTERM, a terminal that is closed SIGHUP, to all processes of the command.
    """
    command = start(launch, tmp_path, temporary_folder)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 6)
    kill(command.pid, number)
    command.wait()
    pids = [int((tmp_path / name).read_text()) for name in ("rank0", "rank1", "reader")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    wait_for(lambda: not any(map(is_locked, tmp_path.glob("*.lock"))), 1)  # freed last
    assert os.listdir(temporary_folder) == []


@pytest.mark.slow
def test_submitted_processes_end_with_their_command(tmp_path: Path, temporary_folder: str) -> None:
    """Also one that comes after its end."""
    command = start(hold, tmp_path)
    wait_for((tmp_path / "lifeline").exists)
    early = start(call, tmp_path, temporary_folder)
    wait_for((tmp_path / "reader").exists)
    command.kill()
    command.wait()
    early.wait(30)
    late = start(call, tmp_path, temporary_folder)
    late.wait(30)
    assert os.listdir(temporary_folder) == []
    assert (early.returncode, late.returncode) == (-signal.SIGKILL, -signal.SIGKILL)


@pytest.mark.whole
def test_what_a_killed_writer_leaves_is_removed_beside_every_file_of_a_run(tmp_path: Path, undisturbed: Toy) -> None:
    toy = whole_run(tmp_path, SETTINGS, undisturbed)
    folder = RunFolder.opened(toy.run_folder)
    entries = [path for path in folder.root.rglob("*") if _is_replaced(path, folder)]
    for path in entries:
        sibling(path).write_text("half")
    sibling(folder.data / "toy" / "toy.zarr").mkdir()
    assert len(entries) > 100
    for stage in graph_of(folder).stages.values():
        for item in stage.items():
            remove_leftovers_of(stage, item)
    folder.record()
    assert [str(path) for path in folder.root.rglob("*.tmp")] == []


def _is_replaced(path: Path, folder: RunFolder) -> bool:
    """Whether a file comes by way of a sibling: not a log, a lock, or a line of what is appended."""
    appended = path.is_relative_to(folder.root / "logs") or path.name.endswith((".lock", "tfevents", "queue.jsonl"))
    return path.is_file() and not appended
