"""Being asked to stop: a signal sets a flag, and nothing more."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Stopped(RuntimeError):
    """A training that was asked to stop, and saved itself first."""


class StopFlag:
    """While entered, ``asked`` turns true at SIGUSR2 or SIGTERM, and the process goes on.

    Outside of the main thread, where Python takes no signals, it stays false.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
