"""Background processes that are found again by files, also after the process that started them has ended."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_prep.errors import UserError

_STEP_SECONDS = 0.05


class DevClusterError(UserError):
    """The cluster cannot be brought up, or has no node of the name that was asked for."""


class Daemon:
    """Process whose id and time of start are in ``run/<name>.json``; the time tells it from a later one of the same id.

    They are believed only of a process of this user that runs ``program`` with the ``SLURM_CONF`` of ``environment``.
    Its output is appended to ``log/<name>.out``.
    """

    def __init__(self, folder: Path, name: str, program: str, environment: Mapping[str, str]) -> None:
        self.name, self._program, self._environment = name, program, environment
        self._file, self.log = folder / "run" / f"{name}.json", folder / "log" / f"{name}.out"

    @property
    def pid(self) -> int | None:
        """Process id, None if it does not live."""
        try:
            pid, started = json.loads(self._file.read_text())
            return int(pid) if started is not None and _start_ticks(pid) == started and self._is_own(pid) else None
        except (OSError, ValueError, TypeError):
            return None

    def _is_own(self, pid: int) -> bool:
        process = Path(f"/proc/{pid}")
        if process.stat().st_uid != os.geteuid():
            return False
        try:
            program = str((process / "exe").readlink()).removesuffix(" (deleted)")
        except FileNotFoundError:
            return True  # its first thread has ended, others have not
        installed = shutil.which(self._program, path=self._environment["PATH"]) or ""  # a link, on Debian
        mark = os.fsencode(f"SLURM_CONF={self._environment['SLURM_CONF']}")
        is_marked = mark in (process / "environ").read_bytes().split(b"\0")
        return program == os.path.realpath(installed) and is_marked

    def start(self, command: Sequence[str]) -> int:
        """Start it in a new session; return the id of the process, which may still become another program."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **self._environment},
            )  # fmt: skip
        self.adopt(process.pid)
        return process.pid

    def adopt(self, pid: int) -> None:
        """Be the process of this id, which was started elsewhere."""
        self._file.write_text(json.dumps([pid, _start_ticks(pid)]))

    def stop(self, seconds: float) -> None:
        """End it by SIGTERM, after ``seconds`` by SIGKILL."""
        self._signal(signal.SIGTERM)
        if not wait_until(seconds, lambda: self.pid is None):
            self.kill()
        self._file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it by SIGKILL and wait until it has ended."""
        self._signal(signal.SIGKILL)
        wait_until(10, lambda: self.pid is None)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def _start_ticks(pid: int) -> int | None:
    """Return when a living process was started, in clock ticks since the machine started; None if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ended = fields[0] in "ZX" and int(fields[17]) <= 1  # its sockets stay open until the last thread has ended
    return None if ended else int(fields[19])


def child_of(pid: int) -> int | None:
    """Return the id of a process's first child, or None."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def wait_until(seconds: float, condition: Callable[[], object]) -> bool:
    """Wait until the condition holds; return whether it did within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP_SECONDS)
    return True
