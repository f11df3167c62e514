"""Where the time of a training step goes."""

import time
from typing import Literal

import torch

Part = Literal["data", "forward", "backward", "exchange", "optimiser"]
PARTS: tuple[Part, ...] = ("data", "forward", "backward", "exchange", "optimiser")
Moment = float | torch.cuda.Event


class StepClock:
    """Splits the time between two readings into parts.

    On a GPU the moments are events of its stream, so nothing waits for them until they are read: ``data``
    is then what the GPU stood idle for, and ``exchange`` what the backward pass did not hide.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Forget everything; the next part begins now."""
        self._marks: list[tuple[Part, Moment]] = []
        self._ends: list[int] = []
        self._exchanges: list[tuple[Moment, Moment]] = []
        self._began = self.now()

    def now(self) -> Moment:
        """This moment, to be handed to :meth:`exchanged`."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mark(self, part: Part) -> None:
        """What passed since the last mark was ``part``."""
        self._marks.append((part, self.now()))

    def end_step(self) -> None:
        """The step ended with the last mark."""
        self._ends.append(len(self._marks))

    def exchanged(self, began: Moment) -> None:
        """Some gradients were on their way from ``began`` to now, beside whatever else was done."""
        self._exchanges.append((began, self.now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, and of the gradients' way as ``exchange_whole``, hidden or not; waits for the GPU."""
        sums: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for part, seconds in self._parts():
            sums[part] += seconds
        sums["exchange_whole"] = sum(_between(*one) for one in self._exchanges)
        return sums

    def steps(self) -> list[tuple[float, float]]:
        """Seconds of each step that ended, and of them those outside of the exchange; waits for the GPU."""
        parts, found = self._parts(), []
        for first, last in zip([0, *self._ends], self._ends, strict=False):
            step = parts[first:last]
            found.append((sum(s for _, s in step), sum(s for part, s in step if part != "exchange")))
        return found

    def _parts(self) -> list[tuple[Part, float]]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        moments = [self._began, *(moment for _, moment in self._marks)]
        return [(part, _between(last, now)) for last, (part, now) in zip(moments, self._marks, strict=False)]


def _between(first: Moment, second: Moment) -> float:
    if isinstance(first, float) and isinstance(second, float):
        return second - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(second, torch.cuda.Event)
    return float(first.elapsed_time(second)) / 1000
