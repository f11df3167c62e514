"""The record of a training: what every checkpoint keeps beside the network and its optimiser."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

StepTimes = tuple[float, float, float, bool]
"""Of a step: seconds; seconds without the exchange; the latter of the slowest rank; whether it was warm."""


def _no_seconds() -> dict[str, float]:
    return dict.fromkeys(("start", "training", "validation", "checkpoint"), 0.0)


@dataclass
class TrainingRecord:
    """History of a training, over all processes that worked on it; checkpoints hold its fields under these names.

    ``seconds``: by kind of work. ``validation``: the last one, after ``validated`` steps. ``best``: step and errors of
    the best one after the first step, ``stale``: the number of later ones. ``spent``: sums over all steps and ranks of
    loss, gradient norm, times and CPU seconds, and the CPU seconds elsewhere, from the start on. ``line``: the same
    since the last line of metrics. ``timed``: times of each step since that line. ``load``: the sums of
    :class:`~pipeline.training.node_load.LoadMeter`.
    """

    seconds: dict[str, float] = field(default_factory=_no_seconds)
    validation: dict[str, float] = field(default_factory=dict)
    validated: int = -1
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    line: dict[str, float] = field(default_factory=dict)
    timed: list[StepTimes] = field(default_factory=list)
    load: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Add the seconds inside of this context to those of ``kind``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def add_validation(self, step: int, validation: dict[str, float]) -> None:
        """Take in the validation after ``step`` steps."""
        self.validation, self.validated = validation, step
        if not step:
            return
        if not self.best or validation["rmse_hu"] < self.best["rmse_hu"]:
            self.best, self.stale = {"step": step, **validation}, 0
        else:
            self.stale += 1

    def to_state(self) -> dict[str, Any]:
        """Return the fields by name, for a checkpoint."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TrainingRecord":
        """Restore a record from the state of a checkpoint; what an older version did not record starts empty."""
        return cls(**{name: state[name] for name in cls.__dataclass_fields__ if name in state})
