"""The trainer: takes steps, validates after each epoch, writes metrics and saves checkpoints."""

import resource
import time
from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Never

import numpy as np
import torch

from data_prep.progress import Progress
from pipeline.dataset import PairSamples
from pipeline.settings.cells import CellSettings
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.divergence import check_finite, check_noise, check_steps
from pipeline.training.loader import Batch
from pipeline.training.measurements import Measurements
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.node_load import summarise
from pipeline.training.ranks import Ranks
from pipeline.training.record import TrainingRecord
from pipeline.training.schedule import TrainingLength, effective_batch, learning_rate
from pipeline.training.step import TrainingStep
from pipeline.training.stopping import StopFlag, Stopped
from pipeline.training.validation import SUMS, summed_up
from pipeline.training.validators import Validator


@dataclass
class Trainer:
    """One rank of a training, from its last checkpoint to its end.

    Every rank does the same, but rank 0 alone has ``metrics`` and saves checkpoints. ``batches``: those of the steps
    that remain. ``samples``: from which they are. ``steps_taken``: of the last checkpoint, and then so far.
    ``convolutions``: the choice of their algorithms, None where they are torch's.
    """

    cell: CellSettings
    length: TrainingLength
    samples: PairSamples
    validator: Validator
    batches: Generator[Batch]
    step: TrainingStep
    ranks: Ranks
    measurements: Measurements
    checkpoints: Checkpoints
    metrics: MetricsFile | None
    stop: StopFlag
    record: TrainingRecord
    steps_taken: int
    convolutions: dict[str, Any] | None
    _saved_at: float = field(default_factory=time.monotonic)
    _rate: float = 0.0
    _end: int = 0

    def run(self, progress: Progress, epochs: int) -> dict[str, Any]:
        """Train to the end of so many epochs and return the result.

        Raises:
            TrainingError: a loss, gradient or weight is NaN or infinite.
            UserError: it is validated on crops without noise.
            MachineError: a checkpoint cannot be written.
            Stopped: a signal asked for it; a checkpoint was written.
        """
        with self.metrics or nullcontext(), closing(self.batches):
            self._end = epochs * self.length.epoch_steps
            self._end_epoch()
            while self.steps_taken < self._end and not self._has_stalled():
                self._train_epoch(progress)
                self._end_epoch()
        self.measurements.settle_elsewhere()
        return {**self._result(), "nodes": self.ranks.hosts()}

    def _train_epoch(self, progress: Progress) -> None:
        epoch = self.steps_taken // self.length.epoch_steps
        end = (epoch + 1) * self.length.epoch_steps
        self.step.model.train()
        self.measurements.start()
        while self.steps_taken < end:
            self._take_step()
            if self.steps_taken % self.cell.training.log_steps == 0 or self.steps_taken == end:
                self._log(epoch)
            self._meet(last=self.steps_taken == end)
            progress(self.steps_taken, self._end, f"epoch {epoch + 1}/{self.cell.training.epochs}")

    def _take_step(self) -> None:
        seeds = self.cell.training.seed, self.steps_taken, self.ranks.world.rank
        self.step.seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))  # as after a restart
        self._rate = learning_rate(
            self.cell.training, self.ranks.world.size, self.steps_taken, self.length.steps, self.length.epoch_steps
        )
        self.measurements.add(self.step.take(self.batches, self._rate))
        self.steps_taken += 1

    def _log(self, epoch: int) -> None:
        self._settle()
        self._write("train", epoch, {
            **self.measurements.line_means(), "learning_rate": self._rate,
            "effective_batch": effective_batch(self.cell.training, self.ranks.world.size),
            **self.measurements.line_times(),
        })  # fmt: skip
        self.measurements.start_line()

    def _settle(self) -> None:
        """Add the steps since the last time to the record, and check them; every rank must call it."""
        if self.measurements.has_pending:
            check_steps(self.measurements.settle(), self.steps_taken, self.samples, self.cell, self.ranks)
            self.measurements.start()

    def _write(self, kind: str, epoch: int, numbers: Mapping[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.steps_taken, epoch, dict(numbers))

    def _meet(self, *, last: bool) -> None:
        """Stop if asked to, and save between validations: every so many steps, or after a time, by rank 0's clock.

        Ranks that do not exchange gradients meet only where all of them save, and at the lines of metrics.
        """
        interval = self.cell.training.checkpoint_steps
        is_due = not last and interval is not None and self.steps_taken % interval == 0
        if not (is_due or self.step.exchanges or self.ranks.world.size == 1) and self.measurements.has_pending:
            return
        is_asked, is_late = self.ranks.raised(self.stop.asked, self.ranks.world.leads and self._is_late)
        if is_asked:
            self._stop()
        self.measurements.clock.mark("exchange")
        if is_due or (is_late and not last):
            self._pause_to_save()

    @property
    def _is_late(self) -> bool:
        """Whether the last checkpoint is as old as the settings allow."""
        return time.monotonic() - self._saved_at > 60 * self.cell.training.checkpoint_minutes

    def _pause_to_save(self) -> None:
        """Save between two steps; the pause, in which all ranks wait for rank 0, is part of neither."""
        self._settle()
        self._save()
        self.ranks.is_raised(False)
        self.measurements.start()

    def _stop_if_asked(self) -> None:
        """Save and stop, all ranks at the same step, when a signal asked at least one of them."""
        if self.ranks.is_raised(self.stop.asked):
            self._stop()

    def _stop(self) -> Never:
        self._settle()
        self._save()
        message = f"cell {self.cell.id} was asked to stop, and saved itself after step {self.steps_taken}"
        raise Stopped(message, self.stop.number, self.steps_taken)

    def _has_stalled(self) -> bool:
        """Whether the training stops early, as rank 0 sees it; every rank must call it."""
        patient = self.cell.training.patience is not None
        return patient and self.ranks.is_raised(self.ranks.world.leads and self._is_stale)

    @property
    def _is_stale(self) -> bool:
        """Whether the error has not fallen for as many validations as the settings allow."""
        patience = self.cell.training.patience
        return patience is not None and self.record.stale >= patience

    def _end_epoch(self) -> None:
        """Validate if it is due, before the first step too, and save."""
        epochs, steps = divmod(self.steps_taken, self.length.epoch_steps)
        if steps or self.steps_taken == self.record.validated:
            return
        if epochs % self.cell.training.validation_epochs == 0 or self.steps_taken == self._end:
            self._validate()
        if self.steps_taken:
            self._save()

    def _validate(self) -> None:
        with self.record.time("validation"):
            self.ranks.copy_from_first(self.step.judged.buffers())
            self.step.judged.eval()
            validation = summed_up(self.ranks.sum(self._judge_share()))
        self.measurements.settle_elsewhere()
        for name, number in validation.items():
            check_finite(f"validation {name}", number, self.cell, self.steps_taken)
        check_noise(validation, self.cell)
        self._write("validation", max(0, self.steps_taken // self.length.epoch_steps - 1), validation)
        self.record.add_validation(self.steps_taken, validation)

    def _judge_share(self) -> dict[str, float]:
        """Sum the errors over this rank's share of the validation part."""
        sums, world = dict.fromkeys(SUMS, 0.0), self.ranks.world
        errors = self.validator.judge(self.step, world)
        for _ in range(self.validator.rounds(world)):
            for name, x in next(errors, {}).items():
                sums[name] += x
            self._stop_if_asked()
        return sums

    def _save(self) -> None:
        """Save a checkpoint as rank 0; the others, which hold the same state, do not wait."""
        if not self.ranks.world.leads:
            return
        with self.record.time("checkpoint"):
            weights = float(sum(p.detach().sum() for p in self.step.model.parameters()))
            check_finite("sum of weights", weights, self.cell, self.steps_taken)
            state = {
                **self.step.state_dict(), **self.record.to_state(), "convolutions": self.convolutions,
                "metrics": self.metrics.lines if self.metrics else [],
            }  # fmt: skip
            best = [int(self.record.best["step"])] if self.record.best else []
            self.checkpoints.save(self.steps_taken, state, self.cell.training.checkpoints_kept, also=best)
            self._saved_at = time.monotonic()

    def _result(self) -> dict[str, Any]:
        settings, record, device = self.cell.training, self.record, self.ranks.device
        step, validation = self.steps_taken, record.validation
        if settings.keep == "best":
            step, validation = int(record.best["step"]), {name: record.best[name] for name in validation}
        return {
            "steps": self.steps_taken,
            "samples": self.steps_taken * effective_batch(settings, self.ranks.world.size),
            "stopped_early": self._is_stale and self.steps_taken < self.length.steps,
            "effective_batch": effective_batch(settings, self.ranks.world.size),
            "parameters": sum(p.numel() for p in self.step.model.parameters()),
            "seconds": {kind: round(seconds, 3) for kind, seconds in record.seconds.items()},
            "step_seconds": self.measurements.mean_times(),
            "cpu_seconds": round(record.spent["cpu"] + record.spent["cpu_elsewhere"], 3),
            "load": summarise(record.load) if self.ranks.world.leads else None,
            "validation": validation,
            "best": record.best,
            "peak_bytes": _peak_bytes(device),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "precision": "bfloat16" if self.step.low_precision else "float32",
            "convolutions": self.convolutions,
            "checkpoint_step": step,
            "checkpoint": self.checkpoints.digest(step) if self.ranks.world.leads else None,
            "torch": torch.__version__,
            "version": version("quarterdose"),
        }


def _peak_bytes(device: torch.device) -> int:
    """Return the peak of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
