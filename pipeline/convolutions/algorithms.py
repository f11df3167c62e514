"""Algorithms that compute the passes of a convolution.

A library's own choice may be slow or wrong: cuDNN's weight gradient in bfloat16 takes a hundred times too long where
there are few output channels, and on some processors oneDNN's is garbage (docs/gpu.md). So each pass has several
algorithms, of which one is chosen by measurement (:mod:`pipeline.convolutions.trial`).

In all functions ``x`` is the input, (batch, in, sides), ``weight`` the kernels, (out, in, kernel), and ``gradient``
that of the output, (batch, out, sides). Images are channels last.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.convolutions import library
from pipeline.convolutions.folded import folded_output, folded_weight_gradient
from pipeline.convolutions.lowered import lowered_output, lowered_weight_gradient
from pipeline.convolutions.memory_format import empty_kernels
from pipeline.convolutions.planes import gradient_by_planes
from pipeline.convolutions.shape import ConvolutionShape, Pass

FILLED_CHANNELS = 32
FOLDED_CHANNELS = 4
"""Most input channels whose neighbours become channels too."""
LOWERED_COLUMNS = 1024
"""Largest number of input values a voxel for which they are copied into the rows of a matrix."""


@dataclass(frozen=True)
class Algorithm:
    """An algorithm for one pass.

    ``compute``: takes the shape and the pass's operands: ``x`` and ``weight`` for the output; ``gradient``, ``x`` and
    ``weight`` for the gradients. ``applies``: whether it computes a shape.
    """

    compute: Callable[..., Tensor]
    applies: Callable[[ConvolutionShape], bool] = lambda shape: True


def library_output(shape: ConvolutionShape, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the output by torch's library."""
    return library.output(x, weight, [shape.padding] * shape.dims)


def library_input_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the input's gradient by torch's library."""
    return library.input_gradient(gradient, x, weight, [shape.padding] * shape.dims)


def library_weight_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the kernels' gradient by torch's library."""
    return library.weight_gradient(gradient, x, weight, [shape.padding] * shape.dims)


def mirrored_input_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the input's gradient as the output of a convolution with mirrored kernels."""
    axes = tuple(range(2, 2 + shape.dims))
    mirrored = weight.transpose(0, 1).flip(axes).contiguous(memory_format=shape.memory_format)
    return library.output(gradient, mirrored, [shape.kernel - 1 - shape.padding] * shape.dims)


def filled_weight_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the kernels' gradient by the library, with output channels of zeros up to 32."""
    missing = FILLED_CHANNELS - shape.channels_out
    filled = F.pad(gradient.movedim(1, -1), (0, missing)).movedim(-1, 1)
    kernels = empty_kernels([FILLED_CHANNELS, *weight.shape[1:]], x)
    return library_weight_gradient(shape, filled, x, kernels)[: shape.channels_out]


def planar_weight_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of each plane of the kernels as that of a convolution in the plane."""
    return gradient_by_planes(gradient, x, weight.shape, [shape.padding] * 3)


def _widen(compute: Callable[..., Tensor]) -> Algorithm:
    """Return the algorithm that computes in float32, and rounds what comes out."""

    def compute_wide(shape: ConvolutionShape, *operands: Tensor) -> Tensor:
        with torch.autocast(operands[0].device.type, enabled=False):
            exact = compute(replace(shape, precision="float32"), *(operand.float() for operand in operands))
        return exact.to(operands[0].dtype)

    return Algorithm(compute_wide, lambda shape: shape.precision != "float32")


def _is_lowered(shape: ConvolutionShape) -> bool:
    columns: int = shape.channels_in * shape.kernel**shape.dims
    return shape.keeps_sides and shape.kernel > 1 and columns <= LOWERED_COLUMNS


def _is_folded(shape: ConvolutionShape) -> bool:
    return shape.keeps_sides and shape.kernel > 1 and shape.channels_in <= FOLDED_CHANNELS


LIBRARY = "library"
WIDE = "wide"
ALGORITHMS: Mapping[Pass, Mapping[str, Algorithm]] = {
    "output": {
        WIDE: _widen(library_output),
        LIBRARY: Algorithm(library_output),
        "folded": Algorithm(folded_output, _is_folded),
        "lowered": Algorithm(lowered_output, _is_lowered),
    },
    "input gradient": {
        WIDE: _widen(library_input_gradient),
        LIBRARY: Algorithm(library_input_gradient),
        "mirrored": Algorithm(mirrored_input_gradient, lambda shape: shape.kernel > 1),
    },
    "weight gradient": {
        WIDE: _widen(library_weight_gradient),
        LIBRARY: Algorithm(library_weight_gradient),
        "filled": Algorithm(
            filled_weight_gradient, lambda shape: shape.kernel > 1 and shape.channels_out < FILLED_CHANNELS
        ),
        "planar": Algorithm(
            planar_weight_gradient, lambda shape: shape.dims == 3 and shape.kernel > 1 and shape.keeps_sides
        ),
        "folded": Algorithm(folded_weight_gradient, _is_folded),
        "lowered": Algorithm(lowered_weight_gradient, _is_lowered),
    },
}
"""By pass, the algorithms by their names. In float32 convolutions of one pixel have the library's alone."""
