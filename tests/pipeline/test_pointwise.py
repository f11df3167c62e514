"""The fused normalisation and channel mixing against torch's own operations in turn."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.normed import product_of
from pipeline.models.norms import ChannelNorm, build_norm
from pipeline.models.pointwise import mix_normed_channels
from pipeline.settings.training import Norm
from tests.pipeline.networks import SIDES, lively


def in_turn(x: Tensor, norm: ChannelNorm, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    kernel = weight.reshape(*weight.shape, *[1] * (x.dim() - 2))
    return F.leaky_relu((F.conv2d if x.dim() == 4 else F.conv3d)(norm(x), kernel, bias), slope)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize("channels", [1, 48])
@pytest.mark.parametrize("slope", [0.01, 1.0])
@pytest.mark.parametrize("order", [torch.contiguous_format, "last"])
def test_equals_normalising_then_mixing_with_all_gradients(
    dims: int, kind: Norm, channels: int, slope: float, order: torch.memory_format | str
) -> None:
    fused = build_norm(kind, channels).double()
    lively(nn.ModuleDict({"norm": fused}))
    unfused = copy.deepcopy(fused)
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = 3 + torch.randn(2, channels, *SIDES[dims], dtype=torch.float64)
    x = x.contiguous(memory_format=last if order == "last" else torch.contiguous_format)
    weight, bias = torch.randn(5, channels, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    target = torch.randn(2, 5, *SIDES[dims], dtype=torch.float64)

    def results(norm: ChannelNorm, mixed: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = mixed(leaves[0], norm, *leaves[1:], slope)
        (y - target).square().sum().backward()
        grads = [p.grad for p in (*leaves, *norm.parameters())]
        return [y.detach(), *(g for g in grads if g is not None), *norm.buffers()]

    ours, theirs = results(fused, mix_normed_channels), results(unfused, in_turn)
    assert len(ours) == len(theirs) >= 6
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_the_gradient_is_that_of_finite_differences() -> None:
    norm = build_norm("group", 32).double()
    x = torch.randn(2, 32, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, w, b: mix_normed_channels(y, norm, w, b, 0.1), (x, weight, bias))


def test_keeps_no_normalised_image() -> None:
    norm, saved = build_norm("batch", 32), list[Tensor]()
    x = torch.randn(1, 32, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mix_normed_channels(x, norm, torch.randn(4, 32, requires_grad=True), torch.randn(4, requires_grad=True), 1.0)
    extra = [t for t in saved if t.data_ptr() != x.data_ptr()]
    assert len(saved) > len(extra)
    assert sum(t.nbytes for t in extra) < x.nbytes / 50


@pytest.mark.parametrize("voxels", [129 * 128, 64 * 301, 100])
def test_the_gradient_of_weights_is_that_of_float64_in_parts_too(voxels: int) -> None:
    x, gradient, weight = torch.randn(2, 20, voxels, 1), torch.randn(2 * voxels, 3), torch.randn(3, 20)
    x = x.contiguous(memory_format=torch.channels_last)
    exact = gradient.double().t() @ x.double().movedim(1, -1).reshape(-1, 20)
    torch.testing.assert_close(
        product_of(x, weight).weight_gradient(gradient, x, weight).double(), exact, rtol=0, atol=1e-3
    )
