"""Files in memory that vanish with the process that holds them: ranks meet in them, and notice its end by them."""

import fcntl
import os
import shutil
import signal
import threading
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.errors import MachineError


class MemoryFile:
    """Empty file without a name on any disk; processes of this user on this machine open it by ``path``."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("quarterdose"), "r+b")
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")


class Lifeline(MemoryFile):
    """File that this process holds locked; :func:`call_with_lifeline` lets other processes end with it."""

    def __init__(self) -> None:
        super().__init__()
        fcntl.flock(self._file, fcntl.LOCK_EX)


def call_with_lifeline(lifeline: Path, call: Any, *arguments: Any) -> None:
    """Call in a process that ends by SIGKILL as soon as the process ends that holds the lifeline.

    Raises:
        MachineError: this machine does not let processes of one user open files of one another.
    """
    try:
        file = lifeline.open("rb")
    except FileNotFoundError:  # the process is gone
        os.kill(os.getpid(), signal.SIGKILL)
        raise
    except OSError as error:
        raise MachineError(f"{lifeline} cannot be opened: {error.strerror}") from error
    sockets = get_temp_dir()  # of this process, and from now on of those that it forks
    threading.Thread(target=_end_with, args=(file, sockets), name="lifeline", daemon=True).start()
    call(*arguments)


def _end_with(lifeline: BinaryIO, temporary_folder: str) -> None:
    with lifeline:
        fcntl.flock(lifeline, fcntl.LOCK_SH)
    shutil.rmtree(temporary_folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)
