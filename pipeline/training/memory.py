"""Prediction of a training's memory: its steps are taken with tensors that hold no data.

Steps and validation are those of a training, of the same class; only the tensors are fake, so that a step of any size
takes a second and no memory. Counted is what ``torch.cuda.max_memory_allocated`` counts: the bytes of all tensors
alive at the same time. Workspaces inside of an operator and gaps in the allocator's blocks are not seen.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from data_prep.volume import SIDE
from pipeline.convolutions.described import as_described
from pipeline.convolutions.memory_format import lay_out
from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.models.registry import build_network
from pipeline.settings.cells import CellSettings
from pipeline.training.clock import StepClock
from pipeline.training.loader import Batch
from pipeline.training.step import TrainingStep


@dataclass(frozen=True)
class StepMemory:
    """Memory of one rank in a training: the number of ``parameters``; otherwise bytes.

    ``weights``: parameters and running statistics. ``optimiser``: Adam's two moments, the averaged weights, if there
    are several ranks the buckets in which gradients are exchanged, and the copy of the network by which whole scans are
    validated. ``saved``: tensors of the forward pass for the backward pass.
    ``step``: the peak of a step, with all of these. ``validation``: the peak of judging one volume.
    """

    parameters: int
    weights: int
    optimiser: int
    saved: int
    step: int
    validation: int

    @property
    def peak(self) -> int:
        """Peak of the whole training."""
        return max(self.step, self.validation)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes alive of all storages that are allocated under it: the ``current`` sum and its ``peak``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = self.peak = 0
        self._alive = set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return tree_map_only(Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            self.current += storage.nbytes()
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def peak_of(self, call: Callable[[], object]) -> int:
        """Return the peak of the bytes alive during the call."""
        self.peak = self.current
        call()
        return self.peak

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.current -= size


class SavedBytes:
    """Bytes that a network's last forward pass for training left alive, its output among them."""

    def __init__(self, network: nn.Module, live: LiveBytes) -> None:
        self.count = self._before = 0
        self._live = live
        network.register_forward_pre_hook(self._start)
        network.register_forward_hook(self._end)

    def _start(self, network: nn.Module, images: object) -> None:
        self._before = self._live.current

    def _end(self, network: nn.Module, images: object, output: object) -> None:
        if torch.is_grad_enabled():
            self.count = self._live.current - self._before


class Dataless(FakeTensorMode):
    """Mode of fake tensors that read as 1 where a program asks for their values: no size depends on them.

    No operator falls back to real tensors, which may be as large as a GPU's memory.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True, allow_fallback_kernels=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        if func is torch.ops.aten.batch_norm_update_stats.default:  # torch has no shapes for it
            with self:
                return args[0].new_empty(args[0].shape[1]), args[0].new_empty(args[0].shape[1])
        return super().__torch_dispatch__(func, types, args, kwargs)


def build_blank(cell: CellSettings) -> nn.Module:
    """Build the cell's network on the device ``meta``: however large it is, it takes no memory."""
    with torch.device("meta"):
        return lay_out(build_network(cell), cell.dims)


def drop_data(network: nn.Module) -> None:
    """Replace parameters and buffers, within :class:`Dataless`, by such of a CPU that hold no data.

    ``to_empty`` does the same in torch 2.13, but in 2.8 it leaves parameters whose device is ``meta``.
    """
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device="cpu"))


class BucketedNetwork(nn.Module):
    """Stand-in for DDP: the gradients of the last batch are moved into buckets, which stay allocated."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self._syncs = network, True
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(partial(self._move, torch.zeros_like(parameter)))

    def _move(self, bucket: Tensor, parameter: Tensor) -> None:
        if self._syncs:
            parameter.grad = bucket

    def forward(self, images: Tensor) -> Any:
        """Return the network's output."""
        return self.network(images)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Leave gradients where they are, as for all batches but the last."""
        self._syncs = False
        yield
        self._syncs = True


def build_step(cell: CellSettings, model: nn.Module, *, gpu: bool) -> TrainingStep:
    """Build the cell's training step as it is after a first step, with the optimiser of a GPU or of CPUs."""
    low_precision = cell.training.lowers_precision(gpu=gpu)
    clock = StepClock(torch.device("cpu"))
    network = BucketedNetwork(model) if cell.ranks > 1 else model
    step = TrainingStep(cell, model, network, clock, low_precision=low_precision, foreach=gpu)
    for parameter in model.parameters():
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        step.optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
    return step


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Have tensors on CPUs, which hold no data, take the operators of a GPU."""
    with kernels_on_all_devices(), as_described():
        yield


@contextmanager
def blank_step(cell: CellSettings, *, gpu: bool = False) -> Iterator[TrainingStep]:
    """Build the cell's training step; within the context all its tensors, and new ones, hold no data."""
    model = build_blank(cell)
    with Dataless(), _as_on_a_gpu() if gpu else nullcontext():
        drop_data(model)
        yield build_step(cell, model, gpu=gpu)


def blank_batches(cell: CellSettings) -> Iterator[Batch]:
    """Yield batches of the size that the cell trains on, full of ones."""
    while True:
        side = cell.training.crop or SIDE
        yield _blank(side, cell.training.batch, 1, *([cell.slices] if cell.dims == 3 else []))


def blank_sample(cell: CellSettings) -> Batch:
    """Return what a validation judges at once, full of ones: a sample of the cell's size, or a window of a scan."""
    if cell.training.validation == "scans":
        return _blank(SIDE, 1, *([cell.slices] if cell.dims == 3 else []))
    side = cell.training.crop or SIDE
    return _blank(side, cell.validated if cell.dims == 2 else 1, *([cell.slices] if cell.dims == 3 else []))


def _blank(side: int, *sides: int) -> Batch:
    return torch.ones(*sides, side, side), torch.ones(*sides, side, side), torch.ones(2, 2)


def predict(cell: CellSettings, *, gpu: bool) -> StepMemory:
    """Predict the memory of one rank of the cell, on a GPU or on CPUs."""
    return _predict(normalise(cell).model_copy(update={"ranks": min(cell.ranks, 2)}), gpu)


def normalise(cell: CellSettings) -> CellSettings:
    """Drop all differences between cells that change nothing of a rank's step or validation; one rank is left.

    Two accumulated batches are enough to reach the peak of memory: later ones add nothing.
    """
    accumulation = min(cell.training.accumulation, 2)
    length = {"epochs": 1, "samples": None, "work": "strong", "accumulation": accumulation, "patience": None}
    choice = {"seed": 0, "flips": False, "validation_samples": 1, "validation_epochs": 1, "keep": "last"}
    training = cell.training.model_copy(update=length | choice)
    defaults = {"id": "", "ranks": 1, "transfer": "none", "arm": "full", "sampling": "window", "training": training}
    return cell.model_copy(update=defaults)


@cache
def _predict(cell: CellSettings, gpu: bool) -> StepMemory:
    model, live = build_blank(cell), LiveBytes()
    with Dataless(), live, _as_on_a_gpu() if gpu else nullcontext():
        drop_data(model)
        weights = live.current
        step = build_step(cell, model, gpu=gpu)
        optimiser, saved = live.current - weights, SavedBytes(model, live)
        step_peak = live.peak_of(lambda: step.take(blank_batches(cell), cell.training.learning_rate))
        step.judged.eval()
        validation_peak = live.peak_of(lambda: step.judge(*blank_sample(cell)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    copied = weights if cell.training.validation == "scans" else 0
    return StepMemory(
        parameters, weights, optimiser + copied, saved.count, step_peak + copied, validation_peak + copied
    )


def largest_batch(cell: CellSettings, usable: int) -> int:
    """Return the largest batch with which a rank of the cell fits ``usable`` bytes of a GPU, 0 if there is none.

    Memory grows by the same bytes with every sample; the cell's own batch and one near the limit give the slope.
    """
    batch, memory = cell.training.batch, predict(cell, gpu=True)
    if memory.validation > usable:
        return 0
    state = memory.weights + memory.optimiser
    guess = max(batch + 1, batch * (usable - state) // (memory.step - state))
    training = cell.training.model_copy(update={"batch": guess})
    guessed_step = predict(cell.model_copy(update={"training": training}), gpu=True).step
    bytes_a_sample = (guessed_step - memory.step) / (guess - batch)
    return max(0, batch + math.floor((usable - memory.step) / bytes_a_sample))
