"""Whole networks by kernels: the numbers of torch's operators, and the shapes that the memory model needs."""

from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.convolutions.layers import use_algorithms
from pipeline.convolutions.memory_format import channels_last, lay_out
from pipeline.convolutions.needs import NeedsCollector
from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.losses import CompositeLoss
from pipeline.models import DDnet
from pipeline.models.ddnet import Down, Up
from pipeline.models.unet import UNet
from pipeline.training.memory import drop_data, predict
from tests.pipeline.algorithms import other_algorithms
from tests.pipeline.cells import cell
from tests.pipeline.kernels import DEVICE, of_kernels
from tests.pipeline.networks import lively

pytestmark = of_kernels


def passes(network: nn.Module, x: Tensor, *, low_precision: bool = False) -> list[Tensor]:
    """Return a network's output and all its gradients."""
    network.zero_grad()
    dims = x.dim() - 2
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low_precision):
        y = network(x.contiguous(memory_format=channels_last(dims)))
    y.to(torch.promote_types(y.dtype, torch.float32)).square().sum().backward()
    gradients = (parameter.grad for parameter in network.parameters() if parameter.grad is not None)
    return [tensor.detach().cpu() for tensor in (y, *gradients)]


def build(dims: int) -> nn.Module:
    torch.manual_seed(0)
    return lively(lay_out(DDnet(dims, norm="group"), dims))


def errors(outputs: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(outputs, expected, strict=True)]


class Level(nn.Module):
    """One level of DDnet, down and up again."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.down, self.up = Down(dims, "group"), Up(dims, 1, "group", linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 16, sides) to (batch, 1, sides)."""
        y: Tensor = self.up(self.down(x), x)
        return y


def build_level(dims: int) -> nn.Module:
    torch.manual_seed(0)
    return lay_out(Level(dims), dims)


def build_unet(dims: int) -> nn.Module:
    torch.manual_seed(0)
    return lively(lay_out(UNet(dims, width=16, levels=1), dims))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "dims", "size"),
    [
        (build, 2, (1, 16, 32)),
        (build_level, 3, (16, 6, 4, 8)),
        (build_unet, 2, (1, 8, 12)),
        (build_unet, 3, (1, 2, 4, 6)),
    ],
    ids=["2D", "a level in 3D", "U-Net in 2D", "U-Net in 3D"],
)
def test_the_network_is_the_same(build: Callable[[int], nn.Module], dims: int, size: tuple[int, ...]) -> None:
    x = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    exact = passes(build(dims).double(), x.double())
    with kernels_on_all_devices(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        outputs = passes(build(dims).to(DEVICE), x.to(DEVICE))
    assert max(errors(outputs, exact)) < 1e-4


@pytest.mark.slow
def test_convolutions_by_other_algorithms_are_the_same() -> None:
    x = torch.rand(1, 16, 6, 4, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    network = build_level(3).to(DEVICE)
    with kernels_on_all_devices(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        with NeedsCollector() as collected:
            exact = passes(network, x)
        use_algorithms(network, other_algorithms(collected.needs))
        outputs = passes(network, x)
    assert max(errors(outputs, exact)) < 1e-4


@pytest.mark.slow
def test_no_normalised_image_is_kept_for_the_backward_pass() -> None:
    """Input and output of each layer are kept, and a normalised image would be a third; batch norm keeps it."""
    group, batch = (predict(cell(2, crop=64, norm=norm), gpu=True).saved for norm in ("group", "batch"))
    assert group < 0.75 * batch


@pytest.mark.slow
def test_in_bfloat16_only_rounding_differs() -> None:
    """The gradients of so small an image are rounding for the most part, by torch's operators too."""
    x = torch.rand(1, 1, 16, 32, generator=torch.Generator().manual_seed(0))
    exact = passes(build(2).double(), x.double())
    expected = errors(passes(build(2), x, low_precision=True), exact)
    with kernels_on_all_devices():
        rounded = errors(passes(build(2).to(DEVICE), x.to(DEVICE), low_precision=True), exact)
    assert 0.001 < rounded[0] < 2 * expected[0] < 0.2
    assert median(rounded) < 2 * median(expected) < 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_shapes_without_a_gpu(checkpointing: bool) -> None:
    network = lay_out(DDnet(3, residual=True, norm="group", checkpointing=checkpointing), 3)
    with FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False), kernels_on_all_devices():
        drop_data(network)
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
