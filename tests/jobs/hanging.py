"""Commands whose processes hear nothing, and nothing that they need not import: each is started several times."""

import os
import signal
import time
from multiprocessing import get_context
from multiprocessing.resource_sharer import DupFd
from pathlib import Path

from data_prep.files import locked
from jobs.engine.launch import LocalProcesses
from jobs.engine.lifeline import Lifeline, call_with_lifeline


def _note(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))


def _read(folder: Path) -> None:
    from pipeline.training.loader import bind_to_rank

    bind_to_rank(0)
    DupFd(0)  # opens a socket in the temporary folder, as a tensor does that is sent
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


def launch(folder: Path) -> None:
    processes = LocalProcesses([(_hang, (folder,), 2)], [], folder)
    while not processes.have_ended():
        _note(folder, "launched")


def hold(folder: Path) -> None:
    lifeline = Lifeline()
    (folder / "lifeline").write_text(str(lifeline.path))
    time.sleep(600)


def call(folder: Path) -> None:
    call_with_lifeline(Path((folder / "lifeline").read_text()), _hang, 0, folder)
