"""The trainer: one network, one process or many, resumable at any step."""

import math
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from data_prep.files import remove_leftovers
from data_prep.progress import Progress
from data_prep.split import Split
from pipeline.dataset import PairSamples, RankBatches
from pipeline.intensity import DATA_RANGE
from pipeline.losses import CompositeLoss
from pipeline.models import build_network
from pipeline.models.memory_format import channels_last, lay_out
from pipeline.settings.cells import CellSettings
from pipeline.training import checkpoint
from pipeline.training.clock import PARTS, StepClock
from pipeline.training.distributed import agreed, compared, device_of, hosts, raised, reduced, take_from_first
from pipeline.training.exchange import shared, without_exchange
from pipeline.training.loader import Batch, read_ahead
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.schedule import effective_batch, learning_rate, samples_per_epoch
from pipeline.training.stopping import StopFlag, Stopped
from pipeline.training.validation import SUMS, judge, summed_up
from pipeline.training.world import World

VALIDATION_SEED = 2023  # the same validation samples for every cell
COLD_STEPS = 10  # after each start of the process; their times say nothing of the rest
_DIGITS = 6


class TrainingError(RuntimeError):
    """A training that cannot go on, such as a loss that is no number."""


def train(
    cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None, progress: Progress
) -> dict[str, Any]:
    """Train the cell's network in ``folder``, going on from its newest checkpoint; return the result.

    Every rank of ``world`` calls it, after joining the process group. ``start``: weights to begin
    with (a file of ``torch.save``), random if None. The result holds seconds by kind and by part of a
    step, CPU seconds of all ranks, steps, the last and the best validation and the memory peak of
    rank 0 (bytes).

    Raises:
        UserError: a scan has too few slices, or ``start`` does not fit the network.
        TrainingError: a loss or gradient is NaN or infinite.
        MachineError: a checkpoint cannot be written.
        Stopped: a signal asked for it (SIGUSR2, SIGTERM); a checkpoint was written.
    """
    with StopFlag() as stop:
        return _Trainer(cell, data, split, folder, world, start, stop).run(progress)


class _Trainer:
    def __init__(
        self, cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None,
        stop: StopFlag,
    ) -> None:  # fmt: skip
        began = time.perf_counter()
        settings = cell.training
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.cell, self.settings, self.world, self.stop = cell, settings, world, stop
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.device = device_of(world, settings.device)
        self.per_epoch = samples_per_epoch(settings, len(split.parts["train"]), world.size)
        self.samples = PairSamples(data, split.parts["train"], cell, settings.seed, self.per_epoch)
        self.held_out = PairSamples(
            data, split.parts["validation"], cell, VALIDATION_SEED, settings.validation_samples, validating=True
        )
        self.epoch_steps = self.per_epoch // effective_batch(settings, world.size)
        self.steps = settings.epochs * self.epoch_steps
        self.loss = CompositeLoss(settings.ms_ssim_weight, settings.ms_ssim, DATA_RANGE[settings.scaling])
        self.model = build_network(cell)
        if start is not None:
            self.model.load_state_dict(checkpoint.load_state(start))
        self.model.to(device=self.device)
        lay_out(self.model, cell.dims)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, eps=1e-8)
        self.metrics: MetricsFile | None = None
        self.step, self.validated, self.rate = 0, -1, 0.0
        self.validation: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.seconds = dict.fromkeys(("start", "training", "validation", "checkpoint"), 0.0)
        self.spent: dict[str, float] = {}  # summed over steps and ranks: parts of a step, CPU
        self.line: dict[str, float] = {}  # the same since the last line of metrics
        self.timed: list[tuple[float, float, float, bool]] = []  # seconds of each step since then, see _timed_steps
        self.taken = 0  # steps of this process
        self.measured: list[Tensor] = []  # loss and gradient norm of this rank's steps that are in neither yet
        self._resume()
        self.clock = StepClock(self.device)
        if settings.compile:
            self.model.compile()
        self.exchanges = world.size > 1 and cell.arm != "silent"
        self.network = shared(self.model, settings, world, self.device, self.clock) if self.exchanges else self.model
        self.saved_at = time.monotonic()
        self.seconds["start"] += time.perf_counter() - began

    def run(self, progress: Progress) -> dict[str, Any]:
        lines = MetricsFile(self.folder, self.step, self.validated) if self.world.leads else nullcontext()
        with lines as self.metrics:
            batches = self._batches()
            self._validate_if_due()
            while self.step < self.steps:
                self._train_epoch(batches, progress)
                self._validate_if_due()
        return {**self._result(), "nodes": hosts(self.world)}

    def _batches(self) -> Iterator[Batch]:
        first, last = (step * self.settings.accumulation for step in (self.step, self.steps))
        mine = RankBatches(first, last, self.settings.batch, self.world.rank, self.world.size)
        batches = read_ahead(self.samples, mine, self.settings, self.world, self.device)
        return repeat(next(batches)) if self.cell.arm == "synthetic" and first < last else batches

    def _train_epoch(self, batches: Iterator[Batch], progress: Progress) -> None:
        epoch = self.step // self.epoch_steps
        end = (epoch + 1) * self.epoch_steps
        self.model.train()
        self._start_measuring()
        while self.step < end:
            self._train_step(batches)
            self.step += 1
            if self.step % self.settings.log_steps == 0 or self.step == end:
                self._log(epoch)
            self._save_if_due(last=self.step == end)
            if self.exchanges or not self.measured:  # ranks that do not exchange meet at the lines of metrics alone
                self._stop_if_asked()
                self.clock.mark("exchange")
            progress(self.step, self.steps, f"epoch {epoch + 1}/{self.settings.epochs}")

    def _train_step(self, batches: Iterator[Batch]) -> None:
        self.rate = learning_rate(self.settings, self.world.size, self.step, self.steps, self.epoch_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for number in range(1, self.settings.accumulation + 1):
            loss += self._accumulate(next(batches), last=number == self.settings.accumulation)
        self.optimizer.step()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.measured.append(torch.stack([loss, get_total_norm(gradients)]))
        self.clock.mark("optimiser")
        self.clock.end_step()

    def _accumulate(self, batch: Batch, *, last: bool) -> Tensor:
        """Add the gradients of one batch; return its share of the loss."""
        self.clock.mark("data")
        with nullcontext() if last else without_exchange(self.network):
            low, full = (self._on_device(x) for x in batch[:2])
            with self._autocast():
                output = self.network(low)
            loss: Tensor = self.loss(output.float(), full) / self.settings.accumulation
            self.clock.mark("forward")
            loss.backward()
        self.clock.mark("exchange" if last and self.exchanges else "backward")
        return loss.detach()

    def _start_measuring(self) -> None:
        self.clock.start()
        self.cpu, self.began = time.process_time(), time.perf_counter()

    def _settle(self) -> None:
        """Add what all ranks measured since the last time to the line and to the whole; every rank must call it."""
        if not self.measured:
            return
        measured = torch.stack(self.measured).double().cpu()  # waits for the device
        loss, gradient_norm = measured.sum(0).tolist()
        whole = time.perf_counter() - self.began
        sums = {"loss": loss, "gradient_norm": gradient_norm, "steps": float(len(measured)), **self.clock.seconds(),
                "whole": whole, "cpu": time.process_time() - self.cpu}  # fmt: skip
        self.seconds["training"] += whole
        self.timed += self._timed_steps()
        for name, value in reduced(sums, self.world, self.device).items():
            for kept in (self.line, self.spent):
                kept[name] = kept.get(name, 0.0) + value
        self._check_steps(measured)
        self.measured = []
        self._start_measuring()

    def _timed_steps(self) -> Iterator[tuple[float, float, float, bool]]:
        """Of each step: seconds, seconds outside of the exchange, the latter of the slowest rank, whether it was warm.

        The first two are means of the ranks.
        """
        own = torch.tensor(self.clock.steps(), dtype=torch.float64)
        mean, largest = compared(own, self.world)
        for (whole, alone), (_, slowest) in zip(mean.tolist(), largest.tolist(), strict=True):
            self.taken += 1
            yield whole, alone, slowest, self.taken > COLD_STEPS

    def _check_steps(self, measured: Tensor) -> None:
        """Stop at the first step whose loss, of any rank, or gradient is no number, and say whose scans it saw."""
        bad = [not math.isfinite(x) for x in measured.sum(1).tolist()]
        mine = float(bad.index(True) if any(bad) else len(bad))
        names = [f"rank {rank}" for rank in range(self.world.size)]
        firsts = reduced(
            {n: mine if rank == self.world.rank else 0.0 for rank, n in enumerate(names)}, self.world, self.device
        )
        first = int(min(firsts.values()))
        if first < len(bad):
            step = self.step - len(bad) + first
            guilty = [rank for rank, name in enumerate(names) if firsts[name] == first]
            raise TrainingError(
                f"loss or gradient of cell {self.cell.id} is not finite at step {step + 1}, where rank "
                f"{', '.join(map(str, guilty))} saw {', '.join(self._scans(step, guilty))}; the last good checkpoint "
                "is kept"
            )

    def _scans(self, step: int, ranks: list[int]) -> list[str]:
        first, last = step * self.settings.accumulation, (step + 1) * self.settings.accumulation
        batches = [batch for r in ranks for batch in RankBatches(first, last, self.settings.batch, r, self.world.size)]
        found = [self.samples.segment(index) for batch in batches for index in batch]
        return sorted({f"{segment.dataset}/{segment.scan}" for segment in found})

    def _log(self, epoch: int) -> None:
        self._settle()
        steps, ranks = self.line["steps"], self.world.size
        parts = {f"{name}_seconds": self.line[name] / steps for name in (*PARTS, "exchange_whole")}
        self._write("train", epoch, {
            "loss": self.line["loss"] / steps, "gradient_norm": self.line["gradient_norm"] / steps,
            "learning_rate": self.rate, "effective_batch": effective_batch(self.settings, ranks),
            "seconds_a_step": self.line["whole"] / steps, **parts, **self._columns(),
        })  # fmt: skip
        self.line, self.timed = {}, []

    def _columns(self) -> dict[str, list[float]]:
        """A list of the line's steps for each of the times."""
        whole, own, slowest, warm = zip(*self.timed, strict=True)
        times = {"step_seconds": whole, "own_seconds": own, "slowest_seconds": slowest}
        return {**{name: [round(s, _DIGITS) for s in column] for name, column in times.items()}, "warm": list(warm)}

    def _write(self, kind: str, epoch: int, values: Mapping[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.step, epoch, dict(values))

    def _stop_if_asked(self) -> None:
        """All ranks save and stop, at the same step, when any of them was asked to."""
        if raised(self.stop.asked, self.world):
            self._settle()
            self._save()
            told = f"cell {self.cell.id} was asked to stop, and saved itself after step {self.step}"
            raise Stopped(told, self.stop.number)

    def _validate_if_due(self) -> None:
        """Before the first step, and after each epoch."""
        if self.step % self.epoch_steps or self.step == self.validated:
            return
        with self._timed("validation"):
            take_from_first(self.model.buffers(), self.world)
            self.model.eval()
            self.validation = summed_up(reduced(self._judge_mine(), self.world, self.device))
        self._check_finite("validation loss", self.validation["loss"])
        self._write("validation", max(0, self.step // self.epoch_steps - 1), self.validation)
        self.validated = self.step
        if not self.best or self.validation["rmse_hu"] < self.best["rmse_hu"]:
            self.best = {"step": self.step, "rmse_hu": self.validation["rmse_hu"]}
        if self.step:
            self._save()

    def _judge_mine(self) -> dict[str, float]:
        sums = dict.fromkeys(SUMS, 0.0)
        for first in range(0, self.settings.validation_samples, self.world.size):
            index = first + self.world.rank
            if index < self.settings.validation_samples:
                for name, value in self._judge(index).items():
                    sums[name] += value
            self._stop_if_asked()
        return sums

    def _judge(self, index: int) -> dict[str, float]:
        low, full, scales = self.held_out[index]
        beside = 1 if self.cell.dims == 2 else 0  # the slices of a volume are as many images in 2D
        low, full = (self._on_device(x.unsqueeze(beside)) for x in (low, full))
        with self._autocast():
            return judge(self.model, self.loss, low, full, scales)

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True).contiguous(memory_format=channels_last(self.cell.dims))

    def _autocast(self) -> torch.autocast:
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.lowers_precision(gpu=kind == "cuda"))

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - began

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} of cell {self.cell.id} is {value} at step {self.step}; its last good checkpoint is kept"
            )

    def _save_if_due(self, *, last: bool) -> None:
        """Between validations too. By steps all ranks know; by time rank 0 alone, when nothing of others is open."""
        every = self.settings.checkpoint_steps
        if last:
            return
        if every and self.step % every == 0:
            self._settle()
            self._save()
        elif not self.measured and time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes:
            self._save()

    def _save(self) -> None:
        """Rank 0 saves, nobody waits: every rank holds the same state."""
        if not self.world.leads:
            return
        with self._timed("checkpoint"):
            self._check_finite("sum of weights", float(sum(p.detach().sum() for p in self.model.parameters())))
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **self._record()}
            best = [int(self.best["step"])] if self.best else []
            checkpoint.save(self.checkpoints, self.step, state, self.settings.checkpoints_kept, also=best)
            self.saved_at = time.monotonic()

    def _record(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "validation": self.validation, "validated": self.validated,
                "best": self.best, "spent": self.spent, "line": self.line, "timed": self.timed}  # fmt: skip

    def _resume(self) -> None:
        """Every rank loads what rank 0 finds newest."""
        found = None
        if self.world.leads:
            remove_leftovers(self.checkpoints, "step-*")
            found = checkpoint.newest(self.checkpoints)
        step = agreed(-1 if found is None else found, self.world, self.device)
        if step < 0:
            return
        state = checkpoint.load(self.checkpoints, step)
        self.step = step
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in self._record():
            setattr(self, name, state[name])

    def _result(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        steps = self.spent["steps"]
        return {
            "steps": self.steps,
            "samples": self.per_epoch * self.settings.epochs,
            "effective_batch": effective_batch(self.settings, self.world.size),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds": {kind: round(value, 3) for kind, value in self.seconds.items()},
            "step_seconds": {part: self.spent[part] / steps for part in (*PARTS, "exchange_whole", "whole")},
            "cpu_seconds": round(self.spent["cpu"], 3),
            "validation": self.validation,
            "best": self.best,
            "peak_bytes": peak,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": "bfloat16" if self.settings.lowers_precision(gpu=self.device.type == "cuda") else "float32",
            "torch": torch.__version__,
            "version": version("quarterdose"),
        }


def load_trained(cell: CellSettings, folder: Path) -> nn.Module:
    """The network of a finished training in ``folder``, in eval mode on the CPU.

    Raises:
        CheckpointError: there is no checkpoint that can be read.
    """
    model, checkpoints = build_network(cell), folder / "checkpoints"
    step = checkpoint.newest(checkpoints)
    if step is None:
        raise checkpoint.CheckpointError(f"{checkpoints} holds no readable checkpoint")
    model.load_state_dict(checkpoint.load(checkpoints, step)["model"])
    return model.eval()
