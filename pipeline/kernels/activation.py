"""The bias of a convolution and the leaky ReLU after it in a single pass, in the convolution's memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.operators import as_image, as_rows, define


def _no_shapes(y: Tensor, bias: Tensor, slope: float) -> None:
    return None


def _gradient_shapes(gradient: Tensor, y: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), gradient.new_empty(y.shape[2], dtype=torch.float32)


_activate = define("activate(Tensor(a!) y, Tensor bias, float slope) -> ()", "activation", _no_shapes)
_gradients = define(
    "activate_backward(Tensor gradient, Tensor y, float slope) -> (Tensor, Tensor)", "activation", _gradient_shapes
)


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, slope: float) -> Tensor:
        _activate(as_rows(y), bias, slope)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y.detach())  # else a block that is computed twice keeps it alive, in torch 2.8
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        to_y, to_bias = _gradients(as_rows(gradient), as_rows(y), ctx.slope)
        return to_y[0] if y.dim() == 2 else as_image(to_y, y.shape[2:]), to_bias, None


def add_bias_and_activate(y: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Compute ``leaky_relu(y + bias)``, in the memory of ``y`` if that is channels last and no view of another tensor.

    Args:
        y: (batch, channels, sides) or (rows, channels), in float32, bfloat16 or float16.
        bias: (channels,), float32.
        slope: of negative numbers, positive; 1 for no ReLU.
    """
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    y = y.contiguous(memory_format=orders.get(y.dim(), torch.contiguous_format))
    if y._base is not None:  # autograd refuses to change a view that an operator of our own returns
        y = y.clone()
    activated: Tensor = _Activate.apply(y, bias, slope)  # type: ignore[no-untyped-call]
    return activated
