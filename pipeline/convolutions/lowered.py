"""Convolutions as products of matrices: the values under the kernel are copied into the rows of a matrix.

For few input channels, which give a GPU's matrix units nothing to do. Some rows of the image are taken at a time, so
that the matrix stays small.
"""

import math
from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.convolutions.shape import ConvolutionShape

MATRIX_VALUES = 2**26

Index = tuple[int | slice, ...]


def lowered_output(shape: ConvolutionShape, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the output of a convolution that keeps the sides."""
    size = shape.batch, shape.channels_out, *shape.sides
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=shape.memory_format)
    voxels, kernels = y.movedim(1, -1), weight.flatten(1).t()
    for rows, matrix in _matrices(shape, x):
        voxels[rows] = (matrix @ kernels).reshape(voxels[rows].shape)
    return y


def lowered_weight_gradient(shape: ConvolutionShape, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the kernels' gradient of a convolution that keeps the sides; it is summed in float32 at least."""
    total = torch.zeros_like(weight.flatten(1), dtype=torch.promote_types(weight.dtype, torch.float32))
    voxels = gradient.movedim(1, -1)
    for rows, matrix in _matrices(shape, x):
        total += voxels[rows].reshape(-1, shape.channels_out).t() @ matrix
    return total.to(x.dtype).reshape(weight.shape)


def _matrices(shape: ConvolutionShape, x: Tensor) -> Iterator[tuple[Index, Tensor]]:
    """Yield rows of the image, and for each of their voxels the values under the kernel, (voxels, in * kernel)."""
    border = [shape.padding] * 2 * shape.dims
    windows = F.pad(x.movedim(1, -1), (0, 0, *border))
    for axis in range(1, 1 + shape.dims):
        windows = windows.unfold(axis, shape.kernel, 1)
    columns = math.prod(windows.shape[1 + shape.dims :])
    *planes, height, width = shape.batch, *shape.sides
    step = max(1, MATRIX_VALUES // (width * columns))
    for plane in product(*map(range, planes)):
        for start in range(0, height, step):
            rows: Index = (*plane, slice(start, start + step))
            yield rows, windows[rows].reshape(-1, columns)
