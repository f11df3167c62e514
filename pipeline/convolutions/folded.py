"""Convolutions of few input channels, with the neighbours along the last axis as more channels.

A GPU's matrix units want at least eight channels. Of two channels and a kernel of seven come fourteen, filled up to
sixteen with zeros; the kernel is a single voxel long along that axis.
"""

import torch.nn.functional as F
from torch import Tensor

from pipeline.convolutions import library
from pipeline.convolutions.memory_format import empty_kernels
from pipeline.convolutions.planes import gradient_by_planes
from pipeline.convolutions.shape import ConvolutionShape

CHANNELS = 8
"""The folded image has a multiple of so many."""


def folded_output(shape: ConvolutionShape, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the output of a convolution that keeps the sides."""
    kernels = F.pad(weight.movedim(-1, 2).flatten(1, 2).movedim(1, -1), (0, _missing(shape))).movedim(-1, 1)[..., None]
    kernels = kernels.contiguous(memory_format=shape.memory_format)
    return library.output(_fold(shape, x), kernels, _padding(shape))


def folded_weight_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the kernels' gradient of a convolution that keeps the sides, in 3D plane by plane."""
    folded, padding = _fold(shape, x), _padding(shape)
    size = shape.channels_out, folded.shape[1], *[shape.kernel] * (shape.dims - 1), 1
    if shape.dims == 2:
        to_kernels = library.weight_gradient(gradient, folded, empty_kernels(size, x), padding)
    else:
        to_kernels = gradient_by_planes(gradient, folded, size, padding)
    parts = to_kernels[:, : shape.channels_in * shape.kernel, ..., 0].unflatten(1, (shape.channels_in, shape.kernel))
    to_weight: Tensor = parts.movedim(2, -1)
    return to_weight


def _fold(shape: ConvolutionShape, x: Tensor) -> Tensor:
    """Copy each voxel's neighbours along the last axis into its channels, (batch, in * kernel and zeros, sides)."""
    padded = F.pad(x.movedim(1, -1), (0, 0, shape.padding, shape.padding))
    neighbours = padded.unfold(-2, shape.kernel, 1)
    return F.pad(neighbours.flatten(-2), (0, _missing(shape))).movedim(-1, 1)


def _missing(shape: ConvolutionShape) -> int:
    return -(shape.channels_in * shape.kernel) % CHANNELS


def _padding(shape: ConvolutionShape) -> list[int]:
    return [shape.padding] * (shape.dims - 1) + [0]
