"""Layers of convolution that compute by chosen algorithms; without a choice they are torch's own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.convolutions.algorithms import ALGORITHMS
from pipeline.convolutions.shape import ConvolutionShape, Pass

Algorithms = Mapping[ConvolutionShape, Mapping[Pass, str]]
"""By shape, the name of each pass's algorithm."""


class _ByAlgorithms(nn.modules.conv._ConvNd):
    algorithms: Algorithms | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        if self.algorithms is None:
            y: Tensor = super()._conv_forward(input, weight, bias)
            return y
        return convolve_by(self.algorithms, input, weight, bias, int(self.padding[0]))


class Conv2d(_ByAlgorithms, nn.Conv2d):
    """Convolution of slices, of stride 1; ``algorithms``: by which it computes, or None."""


class Conv3d(_ByAlgorithms, nn.Conv3d):
    """Convolution of volumes, of stride 1; ``algorithms``: by which it computes, or None."""


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution of slices, of stride 1 and without padding; ``algorithms``: by which it computes, or None.

    It is a convolution with mirrored kernels, and zeros around the image.
    """

    algorithms: Algorithms | None = None

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002 - torch's name
        """Map (batch, in, rows, columns) to (batch, out, rows + kernel - 1, columns + kernel - 1)."""
        if self.algorithms is None:
            return super().forward(input, output_size)
        weight = self.weight.transpose(0, 1).flip(2, 3)
        return convolve_by(self.algorithms, input, weight, self.bias, self.kernel_size[0] - 1)


def use_algorithms(network: nn.Module, algorithms: Algorithms | None) -> None:
    """Let all convolutions of the network compute by the algorithms, which must have every shape; None: by torch."""
    for layer in network.modules():
        if isinstance(layer, Conv2d | Conv3d | ConvTranspose2d):
            layer.algorithms = algorithms


def convolve_by(algorithms: Algorithms, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve (batch, in, sides) with (out, in, kernel) by the algorithms, in the precision of autocast."""
    x, weight = to_autocast(x, weight)
    shape = ConvolutionShape.of(x, weight, padding)
    y: Tensor = ChosenConvolution.apply(x, weight, shape, algorithms[shape])  # type: ignore[no-untyped-call]
    return y if bias is None else y.add_(bias.to(y.dtype).reshape(-1, *[1] * shape.dims))


def to_autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Convert image and weight to the precision of autocast, where it is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight
    precision = torch.get_autocast_dtype(x.device.type)
    return x.to(precision), weight.to(precision)


class ChosenConvolution(torch.autograd.Function):
    """A convolution, each pass of which is computed by the algorithm of a name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: ConvolutionShape, names: Mapping[Pass, str]) -> Tensor:
        """Compute the output, channels last."""
        x, weight = (tensor.contiguous(memory_format=shape.memory_format) for tensor in (x, weight))
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.names = shape, names
        return ALGORITHMS["output"][names["output"]].compute(shape, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of input and kernels."""
        gradient = gradient.contiguous(memory_format=ctx.shape.memory_format)
        passes: tuple[Pass, Pass] = "input gradient", "weight gradient"
        to_x, to_weight = (
            ALGORITHMS[name][ctx.names[name]].compute(ctx.shape, gradient, *ctx.saved_tensors) if is_needed else None
            for name, is_needed in zip(passes, ctx.needs_input_grad, strict=False)
        )
        return to_x, to_weight, None, None
