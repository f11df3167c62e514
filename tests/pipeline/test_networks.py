"""What every network promises: a new record in ARCHITECTURES is tested here at once. One of MONAI is, too."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.store import Pair
from pipeline.convolutions.layers import use_algorithms
from pipeline.convolutions.memory_format import lay_out
from pipeline.convolutions.needs import NeedsCollector
from pipeline.evaluate.denoisers import load_denoiser
from pipeline.models import build_network, inflate
from pipeline.models.gated import GatedBlock
from pipeline.settings.architectures import ARCHITECTURES, architecture_of
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import EvaluateSettings
from pipeline.training.memory import LiveBytes, blank_batches, build_step, predict
from tests.pipeline.algorithms import last_algorithms
from tests.pipeline.cells import cell
from tests.pipeline.networks import fill_with_noise
from tests.pipeline.trainings import assert_killed_ends_alike
from tests.shipping import ship, write_training

SMALL: dict[str, dict[str, Any]] = {
    "redcnn": {"width": 6},
    "resnet": {"width": 8, "blocks": 2},
    "unet": {"width": 16, "levels": 2},
    "nafnet": {"width": 4, "blocks": (1, 1), "middle": 1, "decoder": 1},
    "monai:UNet": {"channels": [4, 8], "strides": [2], "norm": "batch"},
}
"""Options with which a network takes little time; a network that is not here is small anyway."""
OURS = [(name, dims) for name in ARCHITECTURES for dims in (2, 3)]
NETWORKS = [*OURS, *([("monai:UNet", 2), ("monai:UNet", 3)] if find_spec("monai") else [])]
PAIRS = [name for name, dims in NETWORKS if dims == 3 and (name, 2) in NETWORKS]
SIDES = {2: (32, 48), 3: (16, 32, 48)}
CROP = 32


def small(name: str, dims: int, **training: Any) -> CellSettings:
    options = architecture_of(name).options(**SMALL.get(name, {})).model_dump()
    settings = cell(dims, **{"norm": "group", "crop": CROP, **training})
    return settings.model_copy(update={"model": name, "options": options})


def convolution(channels_in: int, channels_out: int, pixels: int) -> int:
    return channels_in * channels_out * pixels + channels_out


def gated(width: int, pixels: int) -> int:
    """Two norms and shares, mixes to twice the channels and back, attention, a depthwise convolution."""
    mixes = 2 * convolution(width, 2 * width, 1) + 3 * convolution(width, width, 1)
    return 6 * width + mixes + 2 * width * (pixels + 1)


def unet_pair(channels_in: int, channels_out: int, pixels: int) -> int:
    norms = 2 * (channels_in + channels_out)
    return norms + convolution(channels_in, channels_out, pixels) + convolution(channels_out, channels_out, pixels)


def count_parameters(name: str, dims: int) -> int:
    """Count the parameters of a network's default size from its paper's sizes."""
    five, three = 5**dims, 3**dims
    widths = [32, 64, 128, 256, 512]
    counts = {
        "ddnet": {2: 566_451, 3: 2_619_155}[dims],
        "redcnn": convolution(1, 96, five) + 8 * convolution(96, 96, five) + convolution(96, 1, five),
        "cnn10": convolution(1, 64, 9**dims) + convolution(64, 32, three) + convolution(32, 1, five),
        "resnet": convolution(1, 128, three) + 20 * convolution(128, 128, three) + convolution(128, 1, three),
        "unet": (
            convolution(1, 32, three) + 64 + convolution(32, 32, three) + convolution(32, 1, 1)
            + sum(unet_pair(w, 2 * w, three) + unet_pair(3 * w, w, three) for w in widths[:3])
        ),
        "nafnet": (
            convolution(1, 32, three) + convolution(32, 1, three)
            + sum(n * gated(w, three) for n, w in zip((4, 4, 6, 10, 12), widths, strict=True))
            + sum(convolution(w, 2 * w, 4) + 2 * w * 4 * w for w in widths[:4])
        ),
    }  # fmt: skip
    return counts[name]


@pytest.mark.parametrize(("name", "dims"), OURS)
def test_its_default_size_is_the_papers(name: str, dims: int) -> None:
    settings = cell(dims, norm="group").model_copy(update={"model": name})
    network = build_network(settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == count_parameters(name, dims)
    published = {("redcnn", 2): 1_848_865, ("cnn10", 2): 24_513, ("nafnet", 2): 29_158_561}  # NAFNet: 29.16 M
    assert count_parameters(name, dims) == published.get((name, dims), count_parameters(name, dims))


@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_it_keeps_the_shape_and_starts_as_the_identity(name: str, dims: int) -> None:
    x = torch.randn(2, 1, *SIDES[dims], generator=torch.Generator().manual_seed(0))
    assert torch.equal(build_network(small(name, dims))(x), x)
    y = build_network(small(name, dims, residual=False, scaling="unit"))(x)
    assert y.shape == x.shape
    assert not torch.equal(y, x)


@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_every_parameter_learns_and_the_error_falls(name: str, dims: int) -> None:
    settings = small(name, dims)
    x = torch.randn(1, 1, *SIDES[dims], generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = lay_out(build_network(settings), dims)
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)
    for _ in range(3):  # zeros of the last layer, and then of NAFNet's shares, hide what lies before them
        optimiser.zero_grad()
        network(x).square().mean().backward()
        optimiser.step()
    assert float(network(x).detach().square().mean()) < float(x.square().mean())
    network.zero_grad()
    fill_with_noise(network)(x).square().mean().backward()
    for parameter, weights in network.named_parameters():
        assert weights.grad is not None, parameter
        assert weights.grad.isfinite().all(), parameter
        assert weights.grad.any(), parameter
        assert weights.grad.stride() == weights.stride(), parameter  # else DDP copies each into its buckets


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("residual", [False, True])
def test_zero_fill_gives_the_2d_output_in_every_slice_of_a_constant_volume(name: str, residual: bool) -> None:
    """In the first and the last slice too: what lies beyond them meets zeros of the kernels."""
    settings = [small(name, dims, residual=residual, scaling="unit") for dims in (2, 3)]
    flat, deep = (fill_with_noise(build_network(training)).eval() for training in settings)
    inflate(flat, deep)
    plane = torch.rand(1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    output, expected = deep(plane.unsqueeze(2).repeat(1, 1, 16, 1, 1)), flat(plane)
    scale = float(expected.square().mean().sqrt())
    assert not torch.allclose(expected, plane, atol=1e-2 * scale)
    for z in range(16):
        torch.testing.assert_close(output[:, :, z], expected, rtol=0, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_it_computes_the_same_by_any_algorithms(name: str, dims: int) -> None:
    """Those that GPUs and bfloat16 choose among; layers that have none are torch's."""
    network = lay_out(fill_with_noise(build_network(small(name, dims))), dims)
    x = torch.randn(1, 1, *SIDES[dims], generator=torch.Generator().manual_seed(0))

    def run_once() -> tuple[Tensor, Tensor]:
        network.zero_grad()
        y = network(x)
        y.square().mean().backward()
        return y.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    with NeedsCollector() as collected:
        expected = run_once()
    use_algorithms(network, {shape: last_algorithms(shape) for shape in collected.needs})
    for ours, exact in zip(run_once(), expected, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_a_training_that_was_killed_ends_with_the_same_bits(
    name: str, dims: int, make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    settings = small(name, dims, epochs=1, samples=2, validation_samples=1, checkpoint_minutes=1e-9)
    data = make_pair()
    assert_killed_ends_alike(settings, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_its_memory_is_predicted(name: str, dims: int) -> None:
    settings = small(name, dims)
    network = lay_out(build_network(settings), dims)
    weights = {parameter: values.clone() for parameter, values in network.state_dict().items()}
    with LiveBytes() as live:
        network.to_empty(device="cpu").load_state_dict(weights)
        step = build_step(settings, network, gpu=False)
        peak = live.peak_of(lambda: step.take(blank_batches(settings), rate=1e-3))
    assert predict(settings, gpu=False).step == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(("name", "dims"), NETWORKS)
def test_judged_is_shipped_as_dicom(name: str, dims: int, make_pair: Callable[..., Path], tmp_path: Path) -> None:
    settings = small(name, dims)
    write_training(fill_with_noise(build_network(settings)), tmp_path / "cell")
    pair = make_pair(slices=18, side=50) / "toy" / "a.zarr"
    low = Pair(pair).read("low_dose")
    judged = load_denoiser(settings, tmp_path / "cell", EvaluateSettings(threads=1))(low, None)
    assert np.abs(judged.astype(int) - low).mean() > 1
    np.testing.assert_array_equal(judged, ship(pair, "dicom", settings, tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
def test_nafnets_attention_is_in_each_part_of_a_plane_what_it_is_in_a_crop(dims: int) -> None:
    block = fill_with_noise(GatedBlock(dims, 8, window=32))
    assert isinstance(block, GatedBlock)
    crop = torch.rand(1, *[4] * (dims - 2), 32, 32, 8, generator=torch.Generator().manual_seed(0))
    repeated = torch.cat([crop, crop], -2)
    of_crop, of_both = block._attention(crop), block._attention(repeated)
    torch.testing.assert_close(of_both, of_crop.expand_as(of_both))
    bright = torch.cat([crop, crop + 1], -2)
    factors = block._attention(bright)
    ends = factors[..., 0, :].mean(), factors[..., -1, :].mean()
    expected = block._attention(crop).mean(), block._attention(crop + 1).mean()
    torch.testing.assert_close(torch.stack(ends), torch.stack(expected))
