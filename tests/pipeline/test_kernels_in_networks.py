"""Whole networks by kernels: the numbers of torch's operators, and the shapes that the memory model needs."""

from contextlib import nullcontext
from statistics import median

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.losses import CompositeLoss
from pipeline.models import DDnet
from pipeline.models.memory_format import channels_last, lay_out
from tests.pipeline.kernels import needs_triton
from tests.pipeline.networks import lively


def passes(dims: int, x: Tensor, *, kernels: bool, low_precision: bool = False) -> list[Tensor]:
    """Return a network's output and all its gradients."""
    torch.manual_seed(0)
    network = lively(lay_out(DDnet(dims, norm="group"), dims))
    with kernels_on_all_devices() if kernels else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            y = network(x.contiguous(memory_format=channels_last(dims)))
        y.float().square().sum().backward()
    return [y.detach().float(), *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)]


def errors(outputs: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(outputs, expected, strict=True)]


@needs_triton
@pytest.mark.parametrize(("dims", "sides"), [(2, (16, 32)), (3, (16, 16, 16))])
def test_the_network_is_the_same(dims: int, sides: tuple[int, ...]) -> None:
    x = torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(0))
    assert max(errors(passes(dims, x, kernels=True), passes(dims, x, kernels=False))) < 1e-4


@needs_triton
def test_in_bfloat16_only_rounding_differs() -> None:
    """The gradients of so small an image are rounding for the most part, by torch's operators too."""
    x = torch.rand(1, 1, 16, 32, generator=torch.Generator().manual_seed(0))
    exact = passes(2, x, kernels=False)
    rounded, expected = (errors(passes(2, x, kernels=kernels, low_precision=True), exact) for kernels in (True, False))
    assert 0.001 < rounded[0] < 2 * expected[0] < 0.2
    assert median(rounded) < 2 * median(expected) < 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_shapes_without_triton_and_without_a_gpu(checkpointing: bool) -> None:
    network = lay_out(DDnet(3, residual=True, norm="group", checkpointing=checkpointing), 3)
    with FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False), kernels_on_all_devices():
        network.to_empty(device="cpu")
        with torch.autocast("cpu", torch.bfloat16):
            features = network.get_submodule("down.0")(torch.empty(2, 16, 16, 64, 64, dtype=torch.bfloat16))
            y = network(torch.empty(2, 1, 16, 64, 64))
        assert (features.dtype, features.shape) == (torch.bfloat16, (2, 16, 8, 32, 32))
        assert features.is_contiguous(memory_format=torch.channels_last_3d)
        assert y.shape == (2, 1, 16, 64, 64)
        CompositeLoss(0.1, "wang", 1.0)(y.float(), torch.empty(y.shape)).backward()
        for parameter in network.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.shape, parameter.grad.dtype) == (parameter.shape, torch.float32)
