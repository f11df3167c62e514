"""Background processes that are known by files: who they are survives the process that started them."""

import json
import os
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
    """A process that ``run/<name>.json`` names by its id and the time it was started, so that no other is taken for it.

    What it prints goes to the end of ``log/<name>.out``.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._file, self.log = name, folder / "run" / f"{name}.json", folder / "log" / f"{name}.out"

    @property
    def pid(self) -> int | None:
        """Its id, while it lives."""
        try:
            pid, started = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        return pid if _started(pid) == started else None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it in a session of its own."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        self.adopt(process.pid)

    def adopt(self, pid: int) -> None:
        """Take a process that was started otherwise."""
        self._file.write_text(json.dumps([pid, _started(pid)]))

    def stop(self, seconds: float) -> None:
        """End it: by SIGTERM, and after ``seconds`` by SIGKILL."""
        self._signal(signal.SIGTERM)
        if not waited(seconds, lambda: self.pid is None):
            self.kill()
        self._file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        waited(10, lambda: self.pid is None)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


def _started(pid: int) -> int | None:
    """When a living process was started, in clock ticks since the machine was."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ended = fields[0] in "ZX" and int(fields[17]) <= 1  # while other threads end, its sockets are open
    return None if ended else int(fields[19])


def child_of(pid: int) -> int | None:
    """The first child of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def waited(seconds: float, condition: Callable[[], object]) -> bool:
    """Wait until the condition holds; whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP_SECONDS)
    return True
