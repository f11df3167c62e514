"""Convolutions of stride 1 by torch's library, with any padding of each axis: one pass at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor


def output(x: Tensor, weight: Tensor, padding: Sequence[int], bias: Tensor | None = None) -> Tensor:
    """Compute the output, (batch, out, sides), of (batch, in, sides), (out, in, kernel) and (out)."""
    steps = [1] * len(padding)
    return torch.convolution(x, weight, bias, steps, padding, steps, False, [0] * len(padding), 1)


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """Compute the input's gradient from that of the output."""
    return _gradients(gradient, x, weight, padding, [True, False, False])[0]


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """Compute the kernels' gradient from that of the output; of ``weight`` only the size and the order are read."""
    return _gradients(gradient, x, weight, padding, [False, True, False])[1]


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int], mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    steps = [1] * len(padding)
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward.default(
        gradient, x, weight, None, steps, padding, steps, False, [0] * len(padding), 1, mask
    )
    return gradients
