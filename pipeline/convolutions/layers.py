"""Layers of convolution that compute by chosen algorithms; without a choice they are torch's own.

Their images are channels last, also where torch's are not, as in 3D those of one input channel: what follows would be
slow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.convolutions.algorithms import ALGORITHMS
from pipeline.convolutions.halved import convolve_halves, gains_by_halves
from pipeline.convolutions.memory_format import channels_last
from pipeline.convolutions.planes import convolve_planes, gains_by_planes
from pipeline.convolutions.shape import ConvolutionShape, Pass

Algorithms = Mapping[ConvolutionShape, Mapping[Pass, str]]
"""By shape, the name of each pass's algorithm."""


class _ByAlgorithms(nn.modules.conv._ConvNd):
    algorithms: Algorithms | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        if not ConvolutionShape.describes(self.kernel_size, self.stride, self.dilation, self.groups):
            y: Tensor = super()._conv_forward(input, weight, bias)
        elif self.algorithms is not None:
            return convolve_by(self.algorithms, input, weight, bias, padding_of(self))
        elif gains_by_halves(input, weight, padding_of(self)):
            return convolve_halves(input, weight, bias)
        elif gains_by_planes(input, weight):
            y = convolve_planes(input, weight, bias, padding_of(self))
        else:
            y = super()._conv_forward(input, weight, bias)
        return y.contiguous(memory_format=channels_last(y.dim() - 2))


class Conv2d(_ByAlgorithms, nn.Conv2d):
    """Convolution of slices; ``algorithms``: by which it computes where it has a shape, or None."""


class Conv3d(_ByAlgorithms, nn.Conv3d):
    """Convolution of volumes; ``algorithms``: by which it computes where it has a shape, or None."""


class _TransposedByAlgorithms(nn.modules.conv._ConvTransposeNd):
    algorithms: Algorithms | None = None

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002 - torch's name
        has_shape = ConvolutionShape.describes(self.kernel_size, self.stride, self.dilation, self.groups)
        if self.algorithms is None or not has_shape:
            y: Tensor = super().forward(input, output_size)
            return y
        weight = self.weight.transpose(0, 1).flip(tuple(range(2, self.weight.dim())))
        padding = [kernel - 1 - side for kernel, side in zip(self.kernel_size, padding_of(self), strict=True)]
        return convolve_by(self.algorithms, input, weight, self.bias, padding)


class ConvTranspose2d(_TransposedByAlgorithms, nn.ConvTranspose2d):
    """Transposed convolution of slices; ``algorithms``: by which it computes where it has a shape, or None.

    It then is a convolution with mirrored kernels, and zeros around the image.
    """


class ConvTranspose3d(_TransposedByAlgorithms, nn.ConvTranspose3d):
    """Transposed convolution of volumes; ``algorithms``: by which it computes where it has a shape, or None."""


def use_algorithms(network: nn.Module, algorithms: Algorithms | None) -> None:
    """Let all convolutions of the network compute by the algorithms, which must have every shape; None: by torch."""
    for layer in network.modules():
        if isinstance(layer, _ByAlgorithms | _TransposedByAlgorithms):
            layer.algorithms = algorithms


def padding_of(layer: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    """Return a layer's padding by axis."""
    assert not isinstance(layer.padding, str)
    return layer.padding


def convolve_by(
    algorithms: Algorithms, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
) -> Tensor:
    """Convolve (batch, in, sides) with (out, in, kernel) by the algorithms, in the precision of autocast.

    ``padding``: by axis. Where it differs between the axes, the image is padded first.
    """
    x, weight = to_autocast(x, weight)
    shape = ConvolutionShape.of(x, weight, padding)
    if shape.sides != x.shape[2:]:
        x = F.pad(x, [zeros for side in reversed(padding) for zeros in (side, side)])
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
