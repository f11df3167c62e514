"""Max pooling to half the sides on channels-last memory, the same bits each time.

In torch's gradient on GPUs, windows that overlap add to a voxel in any order. Here a voxel gathers from its windows.
Each maximum's position in its window is a byte, not eight as with torch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.operators import as_image, as_rows, define


def _half(sides: list[int] | torch.Size) -> torch.Size:
    return torch.Size((side + 1) // 2 for side in sides)


def _pooled_shapes(x: Tensor, sides: list[int]) -> tuple[Tensor, Tensor]:
    shape = len(x), _half(sides).numel(), x.shape[2]
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.uint8)


def _gradient_shapes(gradient: Tensor, positions: Tensor, sides: list[int]) -> Tensor:
    return gradient.new_empty(len(gradient), torch.Size(sides).numel(), gradient.shape[2])


_pool = define("max_pool(Tensor x, int[] sides) -> (Tensor, Tensor)", "pooling", _pooled_shapes)
_gradient = define(
    "max_pool_backward(Tensor gradient, Tensor positions, int[] sides) -> Tensor", "pooling", _gradient_shapes
)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.sides = x.shape[2:]
        y, positions = _pool(as_rows(x), ctx.sides)
        ctx.save_for_backward(positions)
        return as_image(y, _half(ctx.sides))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return as_image(_gradient(as_rows(gradient), *ctx.saved_tensors, ctx.sides), ctx.sides)


def max_pool(x: Tensor) -> Tensor:
    """Pool (batch, channels, sides), with two or three sides, in windows of 3 at every second voxel."""
    y: Tensor = _MaxPool.apply(x)  # type: ignore[no-untyped-call]
    return y
