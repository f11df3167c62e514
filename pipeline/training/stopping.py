"""Being asked to stop: a signal sets a flag, and nothing more."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Stopped(RuntimeError):
    """Work that was asked to stop; a training saved itself first. ``number``: by which signal, if this process was."""

    def __init__(self, message: str, number: int | None) -> None:
        super().__init__(message)
        self.number = number


class StopFlag:
    """While entered, ``asked`` turns true at SIGUSR2 or SIGTERM, and the process goes on.

    ``number``: the first of them. Outside of the main thread, where Python takes no signals, it stays None.
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
