"""Figures of the benchmarks of GPUs, and the goals that they should reach."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured figure and, if it is compared with something, what that is."""

    name: str
    value: float
    unit: str
    baseline: str = ""


@dataclass(frozen=True)
class Goal:
    """The least, or the largest, that a figure should be."""

    limit: float
    is_least: bool

    def holds(self, value: float) -> bool:
        """Whether the value reaches the goal; no number does not."""
        return value >= self.limit if self.is_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.limit:g}"


def at_least(limit: float) -> Goal:
    """Return the goal of a figure that should be large."""
    return Goal(limit, is_least=True)


def at_most(limit: float) -> Goal:
    """Return the goal of a figure that should be small."""
    return Goal(limit, is_least=False)


GOALS: Mapping[str, Goal] = {
    "gpu-step": at_least(3.5),
    "gpu-step-4": at_least(4.2),
    "gpu-step-peak": at_most(4.0),
    "gpu-step-peak-checkpointed": at_most(1.5),
    "gpu-loss": at_most(3.0),
    "gpu-memory": at_most(10.0),
    "gpu-denoise": at_most(10.0),
    "gpu-float16": at_most(2.0),
    "gpu-nccl": at_most(3.0),
    "gpu-nccl-gradients": at_most(0.0),
    "gpu-judge": at_most(1.5),
    "gpu-low-dose": at_least(500.0),
}
