"""Convolutions in bfloat16 that are wrong on this machine, or made so, are found before a network trains with them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.errors import UserError
from pipeline.models import build_network
from pipeline.training.precision import (
    TOLERANCE,
    ConvolutionShape,
    check_convolutions,
    convolutions_of,
    relative_errors,
)
from tests.pipeline.cells import cell
from tests.pipeline.trainings import run

FLAT = cell(2, precision="bfloat16", norm="group")


@pytest.fixture(scope="module")
def shapes() -> list[ConvolutionShape]:
    return convolutions_of(FLAT)


class WrongGradients(TorchDispatchMode):
    """Multiplies gradients of weights in bfloat16 by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.factor = factor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default and args[0].dtype == torch.bfloat16:
            of_images, of_weights, of_bias = output
            return of_images, of_weights * self.factor, of_bias
        return output


def test_every_convolution_of_the_network_is_checked_at_its_sizes(shapes: list[ConvolutionShape]) -> None:
    kernels = {shape.weights[0] for shape in shapes}
    layers = [layer for layer in build_network(FLAT).modules() if isinstance(layer, nn.Conv2d)]
    assert {kernel[2:] for kernel in kernels} == {layer.kernel_size for layer in layers}
    assert {kernel[0] for kernel in kernels} == {layer.out_channels for layer in layers}
    assert {shape.images[0][2:] for shape in shapes} == {(side, side) for side in (1, 2, 4, 8, 16)}
    assert not convolutions_of(cell(2))  # in float32 there is none to check


def test_in_the_plane_rounding_is_all_that_differs(shapes: list[ConvolutionShape]) -> None:
    errors = [error for shape in shapes for error in relative_errors(shape)]
    assert 0.001 < min(errors) <= max(errors) < 0.1 * TOLERANCE


@pytest.mark.parametrize("factor", [1.1, 0.0, float("nan"), float("inf")])
def test_a_wrong_gradient_is_refused_in_a_sentence(factor: float, shapes: list[ConvolutionShape]) -> None:
    check_convolutions(shapes)
    with WrongGradients(factor), pytest.raises(UserError) as refused:
        check_convolutions(shapes)
    assert str(refused.value) == (
        "training.precision: bfloat16 trains on wrong numbers on this machine's CPU, as the gradient of the weights of "
        "a convolution (2 to 16 channels, kernel 7 x 7, at 16 x 16) "
        "differs by more than 3% from float32's; take float32"
    )


def test_a_training_in_bfloat16_is_right_or_refused(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """Some processors' gradients of 3D convolutions are wrong where there are few planes."""
    rounded, exact = (cell(3, precision=name, norm="group", crop=32, epochs=1) for name in ("bfloat16", "float32"))
    wrong = any(not error <= TOLERANCE for shape in convolutions_of(rounded) for error in relative_errors(shape))
    data = make_pair()
    if wrong:
        with pytest.raises(UserError, match=r"kernel 5 x 5 x 5, at \d+ x \d+ x \d+\) differs by more than 3%"):
            run(rounded, data, tmp_path / "rounded")
        assert not list((tmp_path / "rounded").glob("checkpoints/*"))
    else:
        errors = [run(x, data, tmp_path / x.training.precision)["validation"]["rmse_hu"] for x in (rounded, exact)]
        assert errors[0] == pytest.approx(errors[1], rel=0.02)
