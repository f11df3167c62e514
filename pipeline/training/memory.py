"""The memory of a training step, found by taking the step with tensors that hold no data.

The network, the loss, the backward pass and the optimiser are those that train; only their tensors are fake, so that
a step at any size takes a second and no memory. What is counted is what ``torch.cuda.max_memory_allocated`` counts:
the bytes of all tensors alive at once. Workspaces inside of an operator and an allocator's gaps are not seen.
"""

import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from data_prep.volume import SIDE
from pipeline.intensity import DATA_RANGE
from pipeline.losses import CompositeLoss
from pipeline.models.memory_format import channels_last, lay_out
from pipeline.models.registry import build_network
from pipeline.settings.cells import CellSettings


@dataclass(frozen=True)
class StepMemory:
    """What a rank holds in a training step.

    Bytes but for ``parameters``, their number. ``weights``: parameters and running statistics; ``optimiser``: Adam's
    two moments and, of several ranks, the buckets in which gradients travel; ``saved``: what the forward pass
    keeps for the backward pass; ``step``: the peak of a step, with all of these; ``validation``: the peak of judging
    one volume.
    """

    parameters: int
    weights: int
    optimiser: int
    saved: int
    step: int
    validation: int

    @property
    def peak(self) -> int:
        """The most that a training needs."""
        return max(self.step, self.validation)


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made under it that are alive, ``now`` and at their ``peak``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive = set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return tree_map_only(Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def peak_of(self, call: Callable[[], object]) -> int:
        """The most bytes alive during the call."""
        self.peak = self.now
        call()
        return self.peak

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class Kept:
    """Bytes that a network's last forward pass for training left alive, its output among them."""

    def __init__(self, network: nn.Module, live: LiveBytes) -> None:
        self.bytes = self._before = 0
        self._live = live
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, network: nn.Module, images: object) -> None:
        self._before = self._live.now

    def _end(self, network: nn.Module, images: object, output: object) -> None:
        if torch.is_grad_enabled():
            self.bytes = self._live.now - self._before


class TrainingStep:
    """A cell's training step on the network's device, on images that hold nothing of interest.

    Args:
        cell: the settings.
        network: the cell's network, laid out.
        low_precision: bfloat16 for the network's arithmetic.
        foreach: the optimiser goes through all parameters at once, as it does on GPUs.
    """

    def __init__(self, cell: CellSettings, network: nn.Module, *, low_precision: bool, foreach: bool) -> None:
        how = cell.training
        self.cell, self.network, self.low_precision, self.last = cell, network.train(), low_precision, True
        self.device = next(network.parameters()).device
        self.loss = CompositeLoss(how.ms_ssim_weight, how.ms_ssim, DATA_RANGE[how.scaling])
        self.optimizer = torch.optim.Adam(network.parameters(), eps=1e-8, foreach=foreach)
        self._fill_moments()
        if cell.ranks > 1:
            self._share_gradients()

    def _fill_moments(self) -> None:
        """As they are after a first step."""
        for parameter in self.network.parameters():
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **moments}

    def _share_gradients(self) -> None:
        """As DDP: gradients are moved into buckets that stay, once those of the last batch are ready."""
        for parameter in self.network.parameters():
            bucket = torch.zeros_like(parameter)

            def move(parameter: Tensor, bucket: Tensor = bucket) -> None:
                if self.last:
                    parameter.grad = bucket

            parameter.register_post_accumulate_grad_hook(move)

    def images(self, batch: int) -> Tensor:
        """(batch, 1, sides) as they come to the network."""
        plane = [self.cell.training.crop or SIDE] * 2
        sides = plane if self.cell.dims == 2 else [self.cell.slices, *plane]
        ones = torch.ones(batch, 1, *sides, device=self.device)
        return ones.contiguous(memory_format=channels_last(self.cell.dims))

    def forward(self, low: Tensor) -> Tensor:
        """The network's output."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            output: Tensor = self.network(low)
        return output

    def accumulate(self, *, last: bool) -> None:
        """Add one batch's gradients."""
        self.last = last
        low, full = self.images(self.cell.training.batch), self.images(self.cell.training.batch)
        output = self.forward(low)
        self.loss(output.float(), full).backward()

    def take(self) -> None:
        """One step; of the batches that it accumulates two show all."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.cell.training.accumulation > 1:
            self.accumulate(last=False)
        self.accumulate(last=True)
        self.optimizer.step()

    @torch.no_grad()
    def judge(self) -> None:
        """Validate one volume: in 2D all of its slices at once."""
        batch = self.cell.validated if self.cell.dims == 2 else 1
        self.network.eval()
        low, full = self.images(batch), self.images(batch)
        output = self.forward(low)
        self.loss(output.float(), full)


class Dataless(FakeTensorMode):
    """Fake tensors that say 1 where a value is asked for: no tensor's size depends on it."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return super().__torch_dispatch__(func, types, args, kwargs)


class _Float32OnCuda(TorchFunctionMode):
    """What autocast computes in float32 on GPUs, though not on CPUs, of all that the networks are made of."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.group_norm:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def predict(cell: CellSettings, *, gpu: bool) -> StepMemory:
    """The memory of a rank of the cell, on a GPU or on CPUs."""
    return _predict(as_a_step(cell).model_copy(update={"ranks": min(cell.ranks, 2)}), gpu)


def as_a_step(cell: CellSettings) -> CellSettings:
    """The same for cells of one rank that differ in nothing that a training step, or a validation, is made of."""
    length = {"seed": 0, "epochs": 1, "samples": None, "work": "strong"}
    how = cell.training.model_copy(update=length)
    alike = {"id": "", "ranks": 1, "transfer": "none", "arm": "full", "sampling": "window", "training": how}
    return cell.model_copy(update=alike)


@cache
def _predict(cell: CellSettings, gpu: bool) -> StepMemory:
    network = lay_out(build_network(cell), cell.dims)
    live = LiveBytes()
    with Dataless(), live, _Float32OnCuda() if gpu else nullcontext():
        network.to_empty(device="cpu")
        weights = live.now
        step = TrainingStep(cell, network, low_precision=cell.training.lowers_precision(gpu=gpu), foreach=gpu)
        optimiser, kept = live.now - weights, Kept(network, live)
        peaks = [live.peak_of(part) for part in (step.take, step.judge)]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return StepMemory(parameters, weights, optimiser, kept.bytes, *peaks)


def saved_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a network keeps for the backward pass of float32 images of ``shape``, its output among them.

    The network's tensors lose their values.
    """
    live = LiveBytes()
    with Dataless(), live:
        network.to_empty(device="cpu")
        kept = Kept(network, live)
        network(torch.empty(shape))
    return kept.bytes


def largest_batch(cell: CellSettings, usable: int) -> int:
    """The largest batch with which a rank of the cell fits ``usable`` bytes of a GPU, 0 if there is none.

    Memory grows by as much with every sample, which the cell's own batch and one near the limit tell.
    """
    first, own = cell.training.batch, predict(cell, gpu=True)
    if own.validation > usable:
        return 0
    state = own.weights + own.optimiser
    near = max(first + 1, first * (usable - state) // (own.step - state))
    training = cell.training.model_copy(update={"batch": near})
    a_sample = (predict(cell.model_copy(update={"training": training}), gpu=True).step - own.step) / (near - first)
    return max(0, first + math.floor((usable - own.step) / a_sample))
