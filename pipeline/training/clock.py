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

    def exchanged(self, began: Moment) -> None:
        """Some gradients were on their way from ``began`` to now, beside whatever else was done."""
        self._exchanges.append((began, self.now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, and of the gradients' way as ``exchange_whole``, hidden or not; waits for the GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        sums: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        last = self._began
        for part, moment in self._marks:
            sums[part] += _between(last, moment)
            last = moment
        sums["exchange_whole"] = sum(_between(*one) for one in self._exchanges)
        return sums


def _between(first: Moment, second: Moment) -> float:
    if isinstance(first, float) and isinstance(second, float):
        return second - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(second, torch.cuda.Event)
    return float(first.elapsed_time(second)) / 1000
