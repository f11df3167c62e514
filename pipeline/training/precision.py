"""Whether this machine computes a training's convolutions in bfloat16 right: some processors' library does not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.errors import UserError
from pipeline.settings.cells import CellSettings
from pipeline.training.memory import blank_batches, blank_step, normalise

TOLERANCE = 0.03
"""Relative error above which a result is wrong: rounding to bfloat16 gives 0.002, wrong gradients were off by 0.8."""
_PASSES = ("output", "gradient of the input", "gradient of the weights")


@dataclass(frozen=True)
class ConvolutionShape:
    """Sizes and strides of a convolution's input and weights, and its ``options`` from the stride to the groups."""

    images: tuple[tuple[int, ...], tuple[int, ...]]
    weights: tuple[tuple[int, ...], tuple[int, ...]]
    options: tuple[Any, ...]

    def __str__(self) -> str:
        (_, channels_in, *sides), (channels_out, _, *kernel) = self.images[0], self.weights[0]
        sizes = (" x ".join(map(str, sizes)) for sizes in (kernel, sides))
        return "{} to {} channels, kernel {}, at {}".format(channels_in, channels_out, *sizes)


class ConvolutionShapes(TorchDispatchMode):
    """Collects the distinct convolutions in bfloat16 that run under it, as ``shapes``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes = dict[ConvolutionShape, None]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default and args[0].dtype == torch.bfloat16:
            images, weights = ((tuple(x.shape), x.stride()) for x in args[:2])
            options = tuple(tuple(x) if isinstance(x, list) else x for x in args[3:])
            self.shapes[ConvolutionShape(images, weights, options)] = None
        return func(*args, **(kwargs or {}))


def convolutions_of(cell: CellSettings) -> list[ConvolutionShape]:
    """List the distinct convolutions in bfloat16 of a step of the cell's training on CPUs."""
    with blank_step(normalise(cell)) as step, ConvolutionShapes() as collected:
        step.accumulate(next(blank_batches(cell)), last=True)
    return list(collected.shapes)


def check_convolutions(shapes: Iterable[ConvolutionShape]) -> None:
    """Check that convolutions in bfloat16, and their gradients, are those of float32 on random images.

    Raises:
        UserError: one is not; names it.
    """
    for shape in shapes:
        for name, error in zip(_PASSES, relative_errors(shape), strict=True):
            if not error <= TOLERANCE:  # it may be no number
                raise UserError(
                    f"training.precision: bfloat16 trains on wrong numbers on this machine's CPU, as the {name} of a "
                    f"convolution ({shape}) differs by more than {TOLERANCE:.0%} from float32's; take float32"
                )


def relative_errors(shape: ConvolutionShape) -> list[float]:
    """Compute the errors of a convolution's output and two gradients in bfloat16, relative to those in float32."""
    generator = torch.Generator().manual_seed(0)
    images, weights = (
        torch.empty_strided(*layout).normal_(generator=generator).bfloat16() for layout in (shape.images, shape.weights)
    )
    output = torch.ops.aten.convolution(images, weights, None, *shape.options)
    upstream = torch.empty_like(output, dtype=torch.float32).normal_(generator=generator).bfloat16()
    rounded, exact = (
        _passes(images.to(dtype), weights.to(dtype), upstream.to(dtype), shape.options)
        for dtype in (torch.bfloat16, torch.float32)
    )
    return [float((a.float() - b).norm() / b.norm()) for a, b in zip(rounded, exact, strict=True)]


def _passes(images: Tensor, weights: Tensor, upstream: Tensor, options: tuple[Any, ...]) -> tuple[Tensor, ...]:
    images.requires_grad_()
    weights.requires_grad_()
    output = torch.ops.aten.convolution(images, weights, None, *options)
    return output.detach(), *torch.autograd.grad(output, (images, weights), upstream)
