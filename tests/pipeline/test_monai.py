"""Networks of MONAI, beside what test_networks.py asks of all; skipped where MONAI is not installed."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.errors import UserError
from data_prep.log import logger
from pipeline.convolutions.layers import Conv2d, Conv3d
from pipeline.models import build_network, inflate
from pipeline.settings.architectures import Dims, check_options
from pipeline.settings.cells import CellSettings
from tests.pipeline.cells import cell
from tests.pipeline.networks import fill_with_noise
from tests.pipeline.trainings import assert_killed_ends_alike

pytest.importorskip("monai")

UNET: dict[str, Any] = {"channels": [4, 8], "strides": [2], "norm": "batch"}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("monai:BasicUNet", {"features": [4, 4, 4, 4, 4, 4]}),
    ("monai:SegResNet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
]


def monai_cell(model: str, options: dict[str, Any], dims: Dims, **training: Any) -> CellSettings:
    settings = cell(dims, **{"crop": 32, **training})
    return settings.model_copy(update={"model": model, "options": options})


@pytest.mark.parametrize(("model", "options"), NETWORKS)
@pytest.mark.parametrize("dims", [2, 3])
def test_it_fits_starts_as_the_identity_and_every_weight_learns(
    model: str, options: dict[str, Any], dims: Dims
) -> None:
    check_options(model, dims, options)
    network = build_network(monai_cell(model, options, dims))
    assert any(isinstance(layer, Conv2d | Conv3d) for layer in network.get_submodule("features").modules())
    x = torch.randn(1, 1, *(16, 32, 48)[-dims:], generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), x)
    fill_with_noise(network)(x).square().mean().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in network.parameters())


def test_checking_leaves_the_random_numbers_of_a_training_alone() -> None:
    torch.manual_seed(0)
    build_network(monai_cell("monai:UNet", {**UNET, "dropout": 0.1}, 2))
    state = torch.get_rng_state()
    torch.manual_seed(0)
    check_options("monai:UNet", 2, {**UNET, "dropout": 0.1})
    torch.manual_seed(0)
    build_network(monai_cell("monai:UNet", {**UNET, "dropout": 0.1}, 2))
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
@pytest.mark.parametrize("upsample", ["deconv", "nontrainable"])
def test_zero_fill_gives_the_2d_output_also_by_transposed_convolutions(upsample: str) -> None:
    options = {"features": [4, 4, 4, 4, 4, 4], "upsample": upsample}
    flat, deep = (
        fill_with_noise(build_network(monai_cell("monai:BasicUNet", options, dims))).eval() for dims in (2, 3)
    )
    inflate(flat, deep)
    plane = torch.rand(1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    output = deep(plane.unsqueeze(2).repeat(1, 1, 16, 1, 1))
    for z in range(16):
        torch.testing.assert_close(output[:, :, z], flat(plane), rtol=0, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    make_pair: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    """With a thread that reads, and with a process."""
    training = {
        "epochs": 1, "samples": 2, "validation_samples": 1, "checkpoint_minutes": 1e-9, "loader_workers": workers
    }  # fmt: skip
    settings, data = monai_cell("monai:UNet", {**UNET, "dropout": 0.1}, 2, **training), make_pair()
    assert_killed_ends_alike(settings, data, tmp_path)


@pytest.mark.parametrize(
    ("model", "dims", "options", "message"),
    [
        ("monai:Unett", 2, {}, "MONAI has no image-to-image network Unett: take one such as UNet"),
        ("monai:UNet", 2, {"chanels": [4]}, "monai:UNet has no option chanels; valid: channels, strides, kernel_size"),
        ("monai:UNet", 2, {**UNET, "in_channels": 2}, "the option in_channels is not to be set"),
        ("monai:UNet", 2, {"channels": [4, 8]}, "monai:UNet needs the options strides; valid: channels, strides"),
        ("monai:UNet", 2, {**UNET, "channels": [4]},
         r"takes no such options in 2 dimensions: channels: \[4\], strides: \[2\], norm: batch; valid: channels,"),
        ("monai:UNet", 2, {**UNET, "norm": "%s"}, r"no such options in 2 dimensions: .*norm: %s; valid: channels,"),
        ("monai:UNet", 3, {"channels": [4] * 6, "strides": [2] * 5}, "takes no images of 16 x 32 x 48, as it must"),
        ("monai:BasicUNetPlusPlus", 2, {}, "gives several outputs: choose options without deep supervision"),
        ("monai:DenseNet121", 2, {}, "(takes no|makes no image of) images of 32 x 48"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(
    model: str, dims: Dims, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_options(model, dims, options)
    assert "Error" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_monai_itself_says_is_in_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as refused:
        check_options("monai:SegResNet", 2, {"init_filters": 7})
    assert "divisible" not in str(refused.value)
    assert capsys.readouterr().out == ""
    logger.setLevel("DEBUG")
    try:
        with pytest.raises(UserError):
            check_options("monai:SegResNet", 2, {"init_filters": 7})
    finally:
        logger.setLevel("INFO")
    assert re.search(r"num_channels .*must be divisible by num_groups", capsys.readouterr().out)


@pytest.mark.skipif(bool(find_spec("einops")), reason="the package is installed")
def test_a_network_whose_packages_are_missing_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^monai:AutoencoderKL needs a package that is not installed: take another"):
        check_options("monai:AutoencoderKL", 2, {})
