"""Losses, gradient norms and times of training steps, summed over all ranks."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.training.clock import StepClock
from pipeline.training.metrics_file import PARTS
from pipeline.training.node_load import LoadMeter, process_seconds
from pipeline.training.ranks import Ranks
from pipeline.training.record import StepTimes, TrainingRecord

COLD_STEPS = 10  # at the start of each process, slower than all later ones
_TIMES = (*PARTS, "exchange_whole")
_DIGITS = 6


class Measurements:
    """Measures steps, and adds them to the training's record from time to time, as each sum waits for all ranks.

    ``cpu_start``: CPU seconds of this process when the training started.
    """

    def __init__(self, record: TrainingRecord, clock: StepClock, ranks: Ranks, cpu_start: float) -> None:
        self.record, self.clock, self.ranks = record, clock, ranks
        self._cpu, self._cpu_elsewhere = cpu_start, 0.0
        self._load = LoadMeter(ranks, record.load)
        self._pending: list[Tensor] = []
        self._timed_steps = 0
        self.start()

    def start(self) -> None:
        """Start to measure at this moment; steps that were not settled are dropped."""
        self._pending = []
        self._load.start()  # reads /proc, which takes milliseconds on a large node: no part of a step
        self.clock.start()
        self._cpu_elsewhere += self._cpu_lap()
        self._start = time.perf_counter()

    def _cpu_lap(self) -> float:
        """Return the CPU seconds since the last time."""
        before, self._cpu = self._cpu, process_seconds()
        return self._cpu - before

    def add(self, loss_and_norm: Tensor) -> None:
        """Add a step by its loss and the norm of its gradients, (2,)."""
        self._pending.append(loss_and_norm)

    @property
    def has_pending(self) -> bool:
        """Whether there are steps that the record lacks."""
        return bool(self._pending)

    def settle(self) -> Tensor:
        """Add the pending steps of all ranks to the record; return this rank's losses and norms, (steps, 2).

        Every rank must call it. Waits for the GPU. Measuring must be started again afterwards.
        """
        losses_and_norms = torch.stack(self._pending).double().cpu()
        loss, gradient_norm = losses_and_norms.sum(0).tolist()
        seconds = time.perf_counter() - self._start
        self._load.settle()
        sums = {"loss": loss, "gradient_norm": gradient_norm, "steps": float(len(losses_and_norms)),
                **self.clock.seconds(), "whole": seconds, "cpu": self._cpu_lap(),
                "cpu_elsewhere": self._cpu_elsewhere}  # fmt: skip
        self._cpu_elsewhere = 0.0
        self.record.seconds["training"] += seconds
        self.record.timed += self._step_times()
        self._add(sums, self.record.line, self.record.spent)
        return losses_and_norms

    def settle_elsewhere(self) -> None:
        """Add the CPU seconds of all ranks between steps to the record; every rank must call it."""
        self._add({"cpu_elsewhere": self._cpu_elsewhere + self._cpu_lap()}, self.record.spent)
        self._cpu_elsewhere = 0.0

    def _add(self, sums: dict[str, float], *totals: dict[str, float]) -> None:
        for name, total in self.ranks.sum(sums).items():
            for of_record in totals:
                of_record[name] = of_record.get(name, 0.0) + total

    def _step_times(self) -> Iterator[StepTimes]:
        """Yield the times of each pending step: means over the ranks, and those of the slowest rank."""
        mean, largest = self.ranks.compare(torch.tensor(self.clock.steps(), dtype=torch.float64))
        for (seconds, without_exchange), (_, slowest) in zip(mean.tolist(), largest.tolist(), strict=True):
            self._timed_steps += 1
            yield seconds, without_exchange, slowest, self._timed_steps > COLD_STEPS

    def line_means(self) -> dict[str, float]:
        """Return loss and gradient norm of the steps since the last line of metrics."""
        return {name: self.record.line[name] / self.record.line["steps"] for name in ("loss", "gradient_norm")}

    def line_times(self) -> dict[str, float | list[float]]:
        """Return the times of these steps: means, and a list of the steps for each kind of time."""
        steps = self.record.line["steps"]
        parts = {f"{name}_seconds": self.record.line[name] / steps for name in _TIMES}
        seconds, without_exchange, slowest, warm = zip(*self.record.timed, strict=True)
        lists = {"step_seconds": seconds, "own_seconds": without_exchange, "slowest_seconds": slowest}
        rounded = {name: [round(x, _DIGITS) for x in column] for name, column in lists.items()}
        return {"seconds_a_step": self.record.line["whole"] / steps, **parts, **rounded, "warm": list(warm)}

    def start_line(self) -> None:
        """Start the next line of metrics."""
        self.record.line, self.record.timed = {}, []

    def mean_times(self) -> dict[str, float]:
        """Return the seconds of a step and of its parts over the whole training."""
        return {name: self.record.spent[name] / self.record.spent["steps"] for name in (*_TIMES, "whole")}
