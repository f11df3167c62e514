"""Images of volumes plane by plane, in which libraries compute what they compute badly in space."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.convolutions import library
from pipeline.convolutions.described import may_rearrange
from pipeline.convolutions.memory_format import channels_last, empty_kernels

MULTIPLIES_MATRICES = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""Whether oneDNN multiplies a matrix of all windows for the gradient of kernels in 3D, and only there."""
LARGEST_MATRIX = 3
"""Side of the largest kernels whose windows are multiplied as quickly as planes."""


def gains_by_planes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels' gradient is quicker plane by plane here: that of large ones, in float32 without AVX-512."""
    is_trained = torch.is_grad_enabled() and weight.requires_grad
    return MULTIPLIES_MATRICES and may_rearrange(x) and is_trained and weight.shape[-1] > LARGEST_MATRIX


def convolve_planes(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """Convolve (batch, in, sides) with (out, in, kernel); the kernels' gradient is computed plane by plane."""
    y: Tensor = _PlanarConvolution.apply(x, weight, bias, padding)  # type: ignore[no-untyped-call]
    return y


class _PlanarConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return library.output(x, weight, padding, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (needs_x, needs_weight, needs_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=channels_last(3))
        return (
            library.input_gradient(gradient, x, weight, ctx.padding) if needs_x else None,
            gradient_by_planes(gradient, x, weight.shape, ctx.padding) if needs_weight else None,
            gradient.sum((0, 2, 3, 4)) if needs_bias else None,
            None,
        )


def gradient_by_planes(gradient: Tensor, x: Tensor, size: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Compute the gradient of each plane of the kernels as that of a convolution in the plane, by the library.

    ``gradient``: of the output. ``size``: of the kernels, (out, in, planes, rows, columns). ``padding``: by axis.
    """
    channels_out, channels_in, depth, *sides = size
    plane, to_kernels = empty_kernels([channels_out, channels_in, *sides], x), empty_kernels(size, x).zero_()
    for number, (outputs, inputs) in enumerate(_meetings(gradient, x, depth, padding[0])):
        if len(outputs):
            to_kernels[:, :, number] = library.weight_gradient(outputs, inputs, plane, padding[1:])
    return to_kernels


def _meetings(gradient: Tensor, x: Tensor, depth: int, padding: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each plane of the kernels the planes of the output and of the input that it joins."""
    for number in range(depth):
        offset = number - padding  # of the input's plane from the output's
        start = max(0, -offset)
        stop = max(start, min(gradient.shape[2], x.shape[2] - offset))
        yield _planes(gradient, start, stop), _planes(x, start + offset, stop + offset)


def _planes(image: Tensor, start: int, stop: int) -> Tensor:
    """View planes of (batch, channels, planes, rows, columns) as a batch, (batch * planes, channels, rows, columns)."""
    return image.movedim(1, -1)[:, start:stop].flatten(0, 1).movedim(-1, 1)
