"""Sums of convolutions that CPUs compute quicker in another order: in two halves, or plane by plane."""

import pytest
import torch
from torch import nn

from pipeline.convolutions import planes
from pipeline.convolutions.described import as_described
from pipeline.convolutions.halved import convolve_halves, gains_by_halves
from pipeline.convolutions.planes import convolve_planes, gains_by_planes
from pipeline.training import arithmetic
from pipeline.training.memory import normalise
from tests.pipeline.cells import cell


@pytest.mark.parametrize("channels", [(1, 16), (16, 4)])
def test_two_halves_are_the_convolution(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(*channels, 3, padding=1).double()
    x = torch.randn(1, channels[0], 6, 5, 7, dtype=torch.float64, requires_grad=True)
    tensors = x, *layer.parameters()
    ours, exact = convolve_halves(x, layer.weight, layer.bias), layer(x)
    chosen = torch.randn_like(exact)
    gradients = [torch.autograd.grad((y * chosen).sum(), tensors) for y in (ours, exact)]
    torch.testing.assert_close((ours, *gradients[0]), (exact, *gradients[1]), rtol=1e-12, atol=1e-12)


def test_only_small_volumes_in_float32_on_cpus_are_halved() -> None:
    weight, small = torch.empty(8, 16, 3, 3, 3), torch.empty(1, 16, 16, 64, 4)
    assert gains_by_halves(small, weight, (1, 1, 1))
    for x in (
        small.double(),
        torch.empty(2, *small.shape[1:]),
        torch.empty(1, 16, 16, 96, 4),
        small[:, :, :15],
        small[..., 0],
    ):
        assert not gains_by_halves(x, weight, (1, 1, 1))
    assert not gains_by_halves(small, weight, (0, 1, 1))
    assert not gains_by_halves(small, torch.empty(8, 16, 5, 5, 5), (2, 2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert not gains_by_halves(small, weight, (1, 1, 1))


@pytest.mark.parametrize("padding", [(2, 2, 2), (0, 1, 1)])
def test_gradients_by_planes_are_those_of_the_convolution(padding: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(3, 4, 5, padding=padding).double()
    x = torch.randn(2, 3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    tensors = x, *layer.parameters()
    ours, exact = convolve_planes(x, layer.weight, layer.bias, padding), layer(x)
    chosen = torch.randn_like(exact)
    gradients = [torch.autograd.grad((y * chosen).sum(), tensors) for y in (ours, exact)]
    torch.testing.assert_close((ours, *gradients[0]), (exact, *gradients[1]), rtol=1e-12, atol=1e-12)


def test_only_trained_kernels_of_volumes_in_float32_gain_by_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.empty(8, 16, 5, 5, 5, requires_grad=True), torch.empty(1, 16, 16, 64, 4)
    monkeypatch.setattr(planes, "MULTIPLIES_MATRICES", True)
    assert gains_by_planes(x, weight)
    with as_described():
        assert not gains_by_planes(x, weight)
    with torch.no_grad():
        assert not gains_by_planes(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not gains_by_planes(x, weight)
    for image, kernels in ((x.double(), weight), (x[..., 0], weight), (x, weight.detach()), (x, weight[..., :3])):
        assert not gains_by_planes(image, kernels)
    monkeypatch.setattr(planes, "MULTIPLIES_MATRICES", False)
    assert not gains_by_planes(x, weight)


@pytest.mark.slow
def test_counted_operations_are_those_that_layers_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for multiplies_matrices in (False, True):
        monkeypatch.setattr(planes, "MULTIPLIES_MATRICES", multiplies_matrices)
        counts.append(arithmetic._count.__wrapped__(normalise(cell(3))))
    assert counts[0] == counts[1]
