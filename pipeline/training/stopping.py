"""Signals that ask a process to stop: they only set a flag, so that the work can be saved first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Stopped(BaseException):
    """Work that a signal asked to stop.

    No ``except Exception`` catches it: it may be raised anywhere, within imports and readers of files, too.

    ``number``: the signal, None if another rank got it. ``step``: after which a training saved itself first.
    """

    def __init__(self, message: str, number: int | None, step: int | None = None) -> None:
        super().__init__(message)
        self.number, self.step = number, step


class StopFlag:
    """Flag that SIGUSR2 or SIGTERM raises while it is entered; the process goes on.

    ``number``: the first signal, None if there was none. Outside of the main thread, where Python handles no signals,
    it stays None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
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

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
