"""Group norm on channels-last memory, with statistics in float32 and a fixed order of all sums."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.operators import as_image, as_rows, define


def _norm_shapes(
    x: Tensor, groups: int, scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rate = (x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.contiguous_format), mean, rate


def _gradient_shapes(
    gradient: Tensor, x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), mean.new_empty(2, x.shape[2])


normalise_rows = define(
    "group_norm(Tensor x, int groups, Tensor? scale, Tensor? shift, float eps) -> (Tensor, Tensor, Tensor)",
    "group_norm",
    _norm_shapes,
)
normalise_rows_backward = define(
    "group_norm_backward(Tensor gradient, Tensor x, Tensor mean, Tensor rate, Tensor? scale) -> (Tensor, Tensor)",
    "group_norm",
    _gradient_shapes,
)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
        rows = as_rows(x)
        y, mean, rate = normalise_rows(rows, groups, scale, shift, eps)
        ctx.save_for_backward(rows, mean, rate, scale)
        return as_image(y, x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, mean, rate, scale = ctx.saved_tensors
        to_x, to_scale_and_shift = normalise_rows_backward(as_rows(gradient), rows, mean, rate, scale)
        to_scale, to_shift = to_scale_and_shift if scale is not None else (None, None)
        return as_image(to_x, gradient.shape[2:]), None, to_scale, to_shift, None


def group_norm(x: Tensor, groups: int, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """Normalise each group of channels of each sample, then scale and shift each channel.

    Args:
        x: (batch, channels, sides), float32, bfloat16 or float16; the output has its type.
        groups: divides the number of channels.
        scale: (channels,), float32; None for 1.
        shift: (channels,), float32; None, with the scale, for 0.
        eps: added to the variance.
    """
    y: Tensor = _GroupNorm.apply(x, groups, scale, shift, eps)  # type: ignore[no-untyped-call]
    return y
