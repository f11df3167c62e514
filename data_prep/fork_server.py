"""To be imported by a fork server alone, before all else: it then ends with the process that started it.

Its children ignore Ctrl-C: the process that started them hears it too, and asks them to stop. It looks for no garbage
while it imports what they need: modules make none, and that search takes a quarter of the time.
"""

import gc
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from data_prep.processes import STARTED_BY, signal_at_end_of_parent

_LISTENER = "listener-"  # so `multiprocessing` names the socket of a fork server


def _socket_folders() -> Iterator[str]:
    """Yield the folder of this server's socket: only a process that is not killed removes it by itself."""
    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_socket():
            with socket.socket(fileno=os.dup(int(descriptor.name))) as listener:
                folder, _, name = str(listener.getsockname()).rpartition("/")
            if name.startswith(_LISTENER):
                yield folder


def _begin_child() -> None:
    for number in _ENDS:
        signal.signal(number, signal.SIG_DFL)
    gc.freeze()  # what was imported is no garbage in a child either, and stays in memory that all of them share
    gc.enable()


def _end(_number: int, _frame: FrameType | None) -> None:
    for folder in _FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


_FOLDERS = list(_socket_folders())
# `timeout` and a terminal that is closed ask all processes of a command to end; under `nohup` none hears of the latter
_ENDS = [signal.SIGUSR1, *(x for x in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(x) is not signal.SIG_IGN)]
signal.signal(signal.SIGINT, signal.SIG_IGN)
for _number in _ENDS:
    signal.signal(_number, _end)
os.register_at_fork(after_in_child=_begin_child)
gc.disable()
signal_at_end_of_parent(signal.SIGUSR1)
if os.getppid() != int(os.environ[STARTED_BY]):  # it died before this server could be bound to it
    os.kill(os.getpid(), signal.SIGUSR1)
