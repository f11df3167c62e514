"""Trials: their parameters, and what became of them on each rung."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.settings.search import Setting

Parameters = Mapping[str, Setting]
"""Settings of a trial, by ``training.NAME`` or ``options.NAME``."""

TrialState = Literal["complete", "pruned", "failed", "unfinished"]


@dataclass(frozen=True)
class RungResult:
    """What a trial reached on a rung, by the rung's number.

    ``value``: validation RMSE as a share of the input's, after ``steps`` steps. ``hours`` of the process and
    ``cpu_hours``: from the start so far. ``finished``: Unix time.
    """

    rung: int
    steps: int
    value: float
    hours: float
    cpu_hours: float
    finished: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A trial of a network, with the rungs that it completed, in order; ``hours``: of its process in all."""

    network: str
    number: int
    generation: int
    parameters: Parameters
    rungs: tuple[RungResult, ...]
    state: TrialState
    hours: float = 0.0
    reason: str = ""

    @property
    def last(self) -> RungResult | None:
        """What it reached on the last rung that it completed."""
        return self.rungs[-1] if self.rungs else None


def name_trial(network: str, number: int) -> str:
    """Name a trial, fit for file names."""
    return f"{network}-t{number:04d}"


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial of the lowest value among those that were trained to their end; None if none was."""
    values = {trial.number: (trial.last.value, trial) for trial in trials if trial.state == "complete" and trial.last}
    return values[min(values, key=lambda number: (values[number][0], number))][1] if values else None
