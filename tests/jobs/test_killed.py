"""What killed commands leave: no process, and no file that the next one does not remove."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from data_prep.files import is_locked, locked, sibling
from jobs.engine.launch import LocalProcesses
from jobs.engine.leftovers import remove_leftovers_of
from jobs.engine.lifeline import Lifeline, call_with_lifeline
from jobs.engine.run_folder import RunFolder
from jobs.stages.graph import graph_of
from pipeline.training.loader import bind_to_rank
from tests.toy_runs import SETTINGS, Toy, wait_for, whole_run


def _note(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))


def _read(folder: Path) -> None:
    bind_to_rank(0)
    _note(folder, "reader")
    time.sleep(600)


def _hang(rank: int, folder: Path) -> None:
    """Hear no signal, and hold a lock that a reading process inherits, as in a collective."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with locked(folder / f"{rank}.lock"):
        if rank == 0:
            get_context("fork").Process(target=_read, args=(folder,), daemon=True).start()
        _note(folder, f"rank{rank}")
        time.sleep(600)


def _launch(folder: Path) -> None:
    processes = LocalProcesses([(_hang, (folder,), 2)], [], folder)
    while not processes.have_ended():
        _note(folder, "launched")


def _hold(folder: Path) -> None:
    lifeline = Lifeline()
    (folder / "lifeline").write_text(str(lifeline.path))
    time.sleep(600)


def _call(folder: Path) -> None:
    call_with_lifeline(Path((folder / "lifeline").read_text()), _hang, 1, folder)


def start(call: Callable[[Path], None], folder: Path) -> "subprocess.Popen[bytes]":
    """Start a command that calls a function; a child of multiprocessing would share its parent's temporary folder."""
    code = f"import pathlib, tests.jobs.test_killed as t; t.{call.__name__}(pathlib.Path({str(folder)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


@pytest.mark.ranks
def test_ranks_that_hear_nothing_end_with_their_command(tmp_path: Path) -> None:
    """And so do the processes that read for them."""
    command = start(_launch, tmp_path)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 6)
    command.kill()
    command.wait()
    pids = [int((tmp_path / name).read_text()) for name in ("rank0", "rank1", "reader")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    wait_for(lambda: not any(map(is_locked, tmp_path.glob("*.lock"))), 1)  # freed last


def test_submitted_processes_end_with_their_command(tmp_path: Path) -> None:
    """Also one that comes after its end."""
    command = start(_hold, tmp_path)
    wait_for((tmp_path / "lifeline").exists)
    early = start(_call, tmp_path)
    wait_for((tmp_path / "rank1").exists)
    command.kill()
    command.wait()
    early.wait(30)
    late = start(_call, tmp_path)
    late.wait(30)
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
