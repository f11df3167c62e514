"""Processes end with the process that started them, however that ends."""

import ctypes
import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, parent_process

FORK_SERVER = "data_prep.fork_server"
"""Name of the module that a fork server imports first, to end with the process that started it."""
STARTED_BY = "QUARTERDOSE_FORK_SERVER_OF"
"""Name of the variable that tells a fork server the process that started it."""
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_forking_pid: int | None = None
"""Process that forked last in the line of this one: its parent, until it forks itself."""


def start_fork_server(modules: Sequence[str]) -> None:
    """Start the server from which this process forks others, if there is none; both end with this process.

    ``modules``: imported once, by the server.
    """
    os.environ[STARTED_BY] = str(os.getpid())
    forkserver.set_forkserver_preload([FORK_SERVER, *modules])
    forkserver.ensure_running()  # now: its folder of sockets, which ends with it, is then that of all processes


def end_with_parent() -> None:
    """Let the kernel end this process by SIGKILL when its parent dies, also within a call that never returns.

    The parent is the thread that started this process, or the fork server from which it was forked.
    """
    signal_at_end_of_parent(signal.SIGKILL)
    if _is_orphan():
        os.kill(os.getpid(), signal.SIGKILL)


def signal_at_end_of_parent(number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def _is_orphan() -> bool:
    """Whether the parent died before the kernel was asked to tell of it.

    A fork server ends by a signal while the process that started it, if it has threads, still holds its pipes.
    """
    parent = parent_process()
    if parent and not parent.is_alive():
        return True
    return _forking_pid not in (None, os.getpid(), os.getppid())


def _note_forking() -> None:
    global _forking_pid
    _forking_pid = os.getpid()


os.register_at_fork(before=_note_forking)
