"""Processes of this machine that work together: if one fails, the others of its group end too.

``torch.multiprocessing`` has such groups too, but its import takes the command line two seconds of a core.
"""

import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from data_prep.processes import end_with_parent
from jobs.engine.lifeline import MemoryFile
from pipeline.training.stopping import Stopped

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.5  # when a rank has died: for the others to end by themselves, then after SIGTERM; then SIGKILL
_STOP_SECONDS = 10.0


class ProcessGroup:
    """Processes that are forked from the fork server, and call ``main(number, *arguments)``.

    Args:
        main: of a module, so that processes can import it by name.
        arguments: after the process's number.
        size: number of processes.
    """

    def __init__(self, main: Callable[..., None], arguments: tuple[Any, ...], size: int) -> None:
        self._errors = [MemoryFile() for _ in range(size)]  # a disk may be full, which is then the error
        self.processes: list[ForkServerProcess] = []
        for number, error in enumerate(self._errors):
            process = get_context("forkserver").Process(target=_call, args=(error.path, main, number, *arguments))
            process.start()
            self.processes.append(process)
        self.fault = ""
        """Why the first of them died, after they ended; empty if none did."""

    def has_ended(self) -> bool:
        """Whether all processes have ended; waits a fraction of a second, and ends the others of one that failed."""
        wait([process.sentinel for process in self.processes if process.exitcode is None], _POLL_SECONDS)
        codes = [process.exitcode for process in self.processes]
        failed = next((number for number, code in enumerate(codes) if code), None)
        if failed is not None:
            self._end_others()
            self.fault = self._describe(failed)
        return failed is not None or None not in codes

    def _end_others(self) -> None:
        _join(self.processes, _GRACE_SECONDS)
        for process in self.processes:
            process.terminate()
        _join(self.processes, _GRACE_SECONDS)
        for process in self.processes:
            process.kill()
            process.join()

    def _describe(self, number: int) -> str:
        if trace := self._errors[number].path.read_text("utf-8"):
            return _last_words(trace)
        process = self.processes[number]
        rank = f"rank {number}: " if len(self.processes) > 1 else ""
        return f"{rank}process {process.pid} died of {_name_exit(process.exitcode or 0)}"


def stop_groups(groups: Sequence[ProcessGroup]) -> None:
    """End all processes, by SIGKILL those that have not ended some seconds after SIGTERM."""
    processes = [process for group in groups for process in group.processes]
    for process in processes:
        process.terminate()
    _join(processes, _STOP_SECONDS)
    for process in processes:
        process.kill()


def _join(processes: Sequence[ForkServerProcess], seconds: float) -> None:
    """Wait for the end of all, no longer than so many seconds together."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def _call(error_file: Path, main: Callable[..., None], number: int, *arguments: Any) -> None:
    end_with_parent()
    try:
        main(number, *arguments)
    except KeyboardInterrupt:
        pass  # the parent heard it too, and says so
    except (Exception, Stopped):
        error_file.write_text(traceback.format_exc(), "utf-8", errors="backslashreplace")
        sys.exit(1)


def _last_words(trace: str) -> str:
    """Return the last line of a trace, without the kind of the error and the system's number of it."""
    return re.sub(r"^(\w+\.)*[A-Z]\w*: (\[Errno \d+\] )?", "", trace.strip().splitlines()[-1])


def _name_exit(code: int) -> str:
    if -code in set(signal.Signals):
        return signal.Signals(-code).name
    return f"exit code {code}"
