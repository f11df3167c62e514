"""Linear interpolation to twice the sides, the corners of both images in line, on channels-last memory.

The interpolated image is written where the next layer reads it: into its concatenation with another one.

A kernel reads the neighbours of each voxel, forward and backward, weighs them in float32 and rounds the sum. For 16
channels in bfloat16 at 16 x 512 x 512 it moves 151 MB each way. As products with a small matrix along each axis it
would be 350 MB, as two intermediate images are written and read; they and the matrices would be rounded to bfloat16
too, so that the weights of a voxel's neighbours would no longer sum to 1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.operators import as_image, as_rows, define


def _joined_shapes(x: Tensor, skip: Tensor, sides: list[int]) -> Tensor:
    return x.new_empty(*skip.shape[:2], x.shape[2] + skip.shape[2])


def _gradient_shapes(gradient: Tensor, sides: list[int]) -> Tensor:
    return gradient.new_empty(len(gradient), gradient.shape[1] // 2 ** len(sides), gradient.shape[2])


_join = define("double_and_join(Tensor x, Tensor skip, int[] sides) -> Tensor", "upsampling", _joined_shapes)
_gradient = define("double_backward(Tensor gradient, int[] sides) -> Tensor", "upsampling", _gradient_shapes)


class _DoubleAndJoin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor) -> Tensor:
        ctx.sides, ctx.skipped = x.shape[2:], skip.shape[1]
        return as_image(_join(as_rows(x), as_rows(skip), ctx.sides), skip.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        rows = as_rows(gradient)
        channels = rows.shape[2] - ctx.skipped
        to_x = as_image(_gradient(rows[:, :, :channels], ctx.sides), ctx.sides)
        to_skip = rows[
            :, :, channels:
        ].contiguous()  # a view would keep the memory of both until the backward pass ends
        return to_x, as_image(to_skip, gradient.shape[2:])


def double_and_join(x: Tensor, skip: Tensor) -> Tensor:
    """Interpolate an image to twice its sides, and concatenate it with another one of these sides.

    (batch, c, sides) and (batch, d, twice the sides), with two or three sides, to (batch, c + d, twice the sides).
    """
    y: Tensor = _DoubleAndJoin.apply(x, skip)  # type: ignore[no-untyped-call]
    return y
