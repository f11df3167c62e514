"""Times of the parts of training steps."""

import time

import torch

from pipeline.training.metrics_file import PARTS, Part

Moment = float | torch.cuda.Event


class StepClock:
    """Splits the time between two readings into parts.

    On a GPU the moments are events of its stream, so that the CPU waits for the GPU only when they are read. There
    ``data`` is the time in which the GPU had nothing to do, and ``exchange`` the part of the exchange that did not
    run at the same time as the backward pass.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Drop all readings; the first part starts at this moment."""
        self._marks: list[tuple[Part, Moment]] = []
        self._step_ends: list[int] = []
        self._exchanges: list[tuple[Moment, Moment]] = []
        self._start = self.read()

    def read(self) -> Moment:
        """Read the clock, for :meth:`add_exchange`."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mark(self, part: Part) -> None:
        """Count the time since the last mark to ``part``."""
        self._marks.append((part, self.read()))

    def end_step(self) -> None:
        """End a step at the last mark."""
        self._step_ends.append(len(self._marks))

    def add_exchange(self, start: Moment) -> None:
        """Count the time since ``start`` as one in which gradients were exchanged, whatever ran at the same time."""
        self._exchanges.append((start, self.read()))

    def seconds(self) -> dict[str, float]:
        """Sum the seconds of each part, and of all exchanges as ``exchange_whole``; waits for the GPU."""
        sums: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for part, seconds in self._parts():
            sums[part] += seconds
        sums["exchange_whole"] = sum(_seconds_between(*moments) for moments in self._exchanges)
        return sums

    def steps(self) -> list[tuple[float, float]]:
        """List the seconds of each step that ended, with and without its exchange; waits for the GPU."""
        parts = self._parts()
        steps = [parts[first:last] for first, last in zip([0, *self._step_ends], self._step_ends, strict=False)]
        return [
            (sum(seconds for _, seconds in step), sum(seconds for part, seconds in step if part != "exchange"))
            for step in steps
        ]

    def _parts(self) -> list[tuple[Part, float]]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        starts = [self._start, *(moment for _, moment in self._marks)]
        return [(part, _seconds_between(start, end)) for start, (part, end) in zip(starts, self._marks, strict=False)]


def _seconds_between(first: Moment, second: Moment) -> float:
    if isinstance(first, float) and isinstance(second, float):
        return second - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(second, torch.cuda.Event)
    return float(first.elapsed_time(second)) / 1000
