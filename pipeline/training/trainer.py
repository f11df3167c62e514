"""The trainer: one network, one process or many, resumable at any step."""

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from data_prep.files import remove_leftovers
from data_prep.progress import Progress
from data_prep.split import Split
from pipeline.config import CellSettings, TrainingSettings
from pipeline.dataset import PairSamples, RankBatches
from pipeline.intensity import DATA_RANGE
from pipeline.losses import CompositeLoss
from pipeline.models import DDnet
from pipeline.training import checkpoint
from pipeline.training.distributed import agreed, device_of, reduced, take_from_first
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.world import World

VALIDATION_SEED = 2023  # the same validation samples for every cell
EXPONENTIAL_DECAY = 0.8


class TrainingError(RuntimeError):
    """A training that cannot go on, such as a loss that is no number."""


def train(
    cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None, progress: Progress
) -> dict[str, Any]:
    """Train the cell's network in ``folder``, going on from its newest checkpoint; return the result.

    Every rank of ``world`` calls it, after joining the process group. ``start``: weights to begin
    with (a file of ``torch.save``), random if None. The result holds seconds by kind, steps, the
    last validation and the memory peak of rank 0 (bytes).

    Raises:
        UserError: a scan has too few slices, or ``start`` does not fit the network.
        TrainingError: the loss is NaN or infinite.
    """
    return _Trainer(cell, data, split, folder, world, start).run(progress)


class _Trainer:
    def __init__(
        self, cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None
    ) -> None:
        began = time.perf_counter()
        settings = cell.training
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        self.cell, self.settings, self.world, self.folder = cell, settings, world, folder
        self.device = device_of(world, settings.device)
        self.per_epoch = _samples_per_epoch(settings, len(split.parts["train"]), world.size)
        self.samples = PairSamples(data, split.parts["train"], cell, settings.seed, self.per_epoch)
        self.held_out = PairSamples(data, split.parts["validation"], cell, VALIDATION_SEED, settings.validation_samples)
        self.epoch_steps = self.per_epoch // (world.size * settings.batch)
        self.steps = settings.epochs * self.epoch_steps
        self.loss = CompositeLoss(settings.ms_ssim_weight, settings.ms_ssim, DATA_RANGE[settings.scaling])
        self.model = build_network(cell)
        if start is not None:
            self.model.load_state_dict(checkpoint.load_state(start))
        self.model.to(device=self.device)
        self.model.to(memory_format=_channels_last(cell.dims))  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, eps=1e-8)
        self.metrics: MetricsFile | None = None
        self.rate = 0.0
        self.step, self.seconds = 0, dict.fromkeys(("start", "training", "validation", "checkpoint"), 0.0)
        self.validation: dict[str, float] = {}
        self._resume()
        self.network = self._wrap()
        self.saved_at = time.monotonic()
        self.seconds["start"] += time.perf_counter() - began

    def _wrap(self) -> nn.Module:
        if self.world.size == 1:
            return self.model
        devices = [self.world.local_rank] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True, static_graph=True)

    def run(self, progress: Progress) -> dict[str, Any]:
        with MetricsFile(self.folder, self.step) if self.world.leads else nullcontext() as self.metrics:
            for epoch in range(self.step // self.epoch_steps, self.settings.epochs):
                self._train_epoch(epoch, progress)
                self._validate(epoch)
                self._save()
        return self._result()

    def _train_epoch(self, epoch: int, progress: Progress) -> None:
        end = (epoch + 1) * self.epoch_steps
        _set_training(self.model, self.settings.norm)
        losses: list[Tensor] = []
        began = time.perf_counter()
        for low, full, _ in self._loader(
            RankBatches(self.step, end, self.settings.batch, self.world.rank, self.world.size)
        ):
            losses.append(self._train_step(low, full))
            self.step += 1
            if self.step % self.settings.log_steps == 0 or self.step == end:
                seconds = self._log(epoch, losses, began)
                progress(self.step, self.steps, f"epoch {epoch + 1}/{self.settings.epochs}, {seconds:.2f} s a step")
                self._save_if_due(last=self.step == end)
                losses, began = [], time.perf_counter()

    def _train_step(self, low: Tensor, full: Tensor) -> Tensor:
        self.rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        low, full = self._on_device(low), self._on_device(full)
        with self._autocast():
            output = self.network(low)
        loss: Tensor = self.loss(output.float(), full)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _learning_rate(self) -> float:
        settings, share = self.settings, self.step / self.steps
        decay = (
            EXPONENTIAL_DECAY ** (self.step // self.epoch_steps)
            if settings.schedule == "exponential"
            else (1 + math.cos(math.pi * share)) / 2
        )
        rise = min(1.0, (self.step + 1) / (settings.warmup * self.steps)) if settings.warmup else 1.0
        return settings.learning_rate * rise * decay

    def _log(self, epoch: int, losses: list[Tensor], began: float) -> float:
        total = float(torch.stack(losses).double().sum())  # waits for the device
        elapsed = time.perf_counter() - began
        self.seconds["training"] += elapsed
        sums = reduced({"loss": total, "count": float(len(losses))}, self.world, self.device)
        loss = sums["loss"] / sums["count"]
        self._check_finite("loss", loss)
        per_step = elapsed / len(losses)
        self._write("train", epoch, {"loss": loss, "learning_rate": self.rate, "seconds_a_step": per_step})
        return per_step

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} of cell {self.cell.id} is {value} at step {self.step}; its last good checkpoint is kept"
            )

    def _write(self, kind: str, epoch: int, values: dict[str, float]) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.step, epoch, values)

    @torch.no_grad()
    def _validate(self, epoch: int) -> None:
        with self._timed("validation"):
            take_from_first(self.model.buffers(), self.world)
            self.model.eval()
            sums = dict.fromkeys(("loss", "samples", "squares", "low_squares", "voxels"), 0.0)
            mine = range(self.world.rank, self.settings.validation_samples, self.world.size)
            for low, full, scales in self._loader([[i] for i in mine]):
                for name, value in self._judge(low, full, scales[0]).items():
                    sums[name] += value
            sums = reduced(sums, self.world, self.device)
        self.validation = {
            "loss": sums["loss"] / sums["samples"],
            "rmse_hu": math.sqrt(sums["squares"] / sums["voxels"]),
            "low_dose_rmse_hu": math.sqrt(sums["low_squares"] / sums["voxels"]),
        }
        self._check_finite("validation loss", self.validation["loss"])
        self._write("validation", epoch, self.validation)

    def _judge(self, low: Tensor, full: Tensor, scales: Tensor) -> dict[str, float]:
        """Sums over one sample; ``scales``: offset and width of the low and of the full dose, (2, 2)."""
        low, full = self._on_device(low), self._on_device(full)
        with self._autocast():
            output = self.model(low).float()
        hu = [x.double() * width + offset for x, (offset, width) in zip((low, full), scales.tolist(), strict=True)]
        offset, width = scales[1].tolist()
        return {
            "loss": float(self.loss(output, full)),
            "samples": 1.0,
            "squares": float((output.double() * width + offset - hu[1]).square().sum()),
            "low_squares": float((hu[0] - hu[1]).square().sum()),
            "voxels": float(full.numel()),
        }

    def _loader(self, batches: Any) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
        samples = self.held_out if isinstance(batches, list) else self.samples
        return DataLoader(samples, batch_sampler=batches, num_workers=self.settings.loader_workers,
                          pin_memory=self.device.type == "cuda")  # fmt: skip

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True).contiguous(memory_format=_channels_last(self.cell.dims))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[kind] += time.perf_counter() - began

    def _save_if_due(self, *, last: bool) -> None:
        """Rank 0 saves between validations too; nobody waits, since every rank holds the same state."""
        due = time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes
        if due and not last:
            self._save()

    def _save(self) -> None:
        if not self.world.leads:
            return
        with self._timed("checkpoint"):
            self._check_finite("sum of weights", float(sum(p.detach().sum() for p in self.model.parameters())))
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                     "seconds": self.seconds, "validation": self.validation}  # fmt: skip
            checkpoint.save(self.folder / "checkpoints", self.step, state)
            self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Every rank loads what rank 0 finds newest."""
        if self.world.leads:
            remove_leftovers(self.folder / "checkpoints", "step-*")
        self.step = agreed(checkpoint.newest(self.folder / "checkpoints"), self.world, self.device)
        if self.step:
            state = checkpoint.load(self.folder / "checkpoints", self.step)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.seconds, self.validation = state["seconds"], state["validation"]

    def _result(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        return {
            "steps": self.steps,
            "samples": self.per_epoch * self.settings.epochs,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds": {kind: round(value, 3) for kind, value in self.seconds.items()},
            "validation": self.validation,
            "peak_bytes": peak,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        }


def build_network(cell: CellSettings) -> DDnet:
    """The cell's untrained network."""
    return DDnet(cell.dims, residual=cell.training.residual)


def load_trained(cell: CellSettings, folder: Path) -> DDnet:
    """The network of a finished training in ``folder``, in eval mode on the CPU."""
    model = build_network(cell)
    checkpoints = folder / "checkpoints"
    model.load_state_dict(checkpoint.load(checkpoints, checkpoint.newest(checkpoints))["model"])
    return model.eval()


def _samples_per_epoch(settings: TrainingSettings, volumes: int, ranks: int) -> int:
    """As set, or one a training volume, filled up to whole steps."""
    step = ranks * settings.batch
    return settings.samples or math.ceil(volumes / step) * step


def _channels_last(dims: int) -> torch.memory_format:
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def _set_training(model: nn.Module, norm: str) -> None:
    """Training mode; with ``frozen`` the running statistics are used and stay as they are."""
    model.train()
    for layer in model.modules():
        if norm == "frozen" and isinstance(layer, _BatchNorm):
            layer.eval()
