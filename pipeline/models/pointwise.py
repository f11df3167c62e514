"""A normalisation and a convolution of one pixel in one operation, which neither keeps nor writes a normalised image.

Once its statistics are known, a normalisation scales and shifts each channel; both move into the convolution's
weights. In the backward pass, all that the statistics need comes out of the weights' gradient, a small matrix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.activation import add_bias_and_activate
from pipeline.kernels.choice import uses_kernels
from pipeline.models.dimensions import CONVOLVE
from pipeline.models.norms import ChannelNorm


def mix_channels(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Apply a convolution of one pixel, then leaky ReLU: (batch, in, sides) to (batch, out, sides).

    ``weight``: (out, in). ``slope``: of the ReLU's negative side; 1 for no ReLU.

    On GPUs and, in 3D and float32, on CPUs a matrix product is used: on CPUs torch's convolution would copy a
    channels-last image to plain order, and what follows would stay in it. There, in bfloat16 the convolution keeps the
    order, and the product would copy.
    """
    if uses_kernels(x):
        rows = F.linear(x.movedim(1, -1).flatten(0, -2), weight)
        return add_bias_and_activate(rows, bias, slope).reshape(len(x), *x.shape[2:], -1).movedim(-1, 1)
    if x.dim() == 5 and not torch.is_autocast_enabled(x.device.type):
        return _activate(F.linear(x.movedim(1, -1), weight, bias), slope).movedim(-1, 1)
    dims = x.dim() - 2
    return _activate(CONVOLVE[dims](x, weight.reshape(*weight.shape, *[1] * dims), bias), slope)


def mix_normed_channels(x: Tensor, norm: ChannelNorm, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Apply :func:`mix_channels` to the normalised image."""
    if norm.is_shared or torch.is_autocast_enabled(x.device.type):
        return mix_channels(norm(x), weight, bias, slope)
    mean, variance, group_size = norm.statistics(x.detach())
    voxels = x.movedim(1, -1)
    mixed: Tensor = NormedMix.apply(  # type: ignore[no-untyped-call]
        voxels.reshape(len(mean), -1, x.shape[1]),
        mean, variance, group_size, norm.eps, norm.weight, norm.bias, weight, bias,
    )  # fmt: skip
    return _activate(mixed, slope).reshape(*voxels.shape[:-1], -1).movedim(-1, 1)


def _activate(y: Tensor, slope: float) -> Tensor:
    """Apply leaky ReLU in place; do not pass a view: autograd would copy it twice."""
    return y if slope == 1 else F.leaky_relu(y, slope, inplace=True)


class NormedMix(torch.autograd.Function):
    """``F.linear(normalised(x) * scale + shift, weight, bias)``, with its gradients written by hand.

    ``x``: (sets, voxels, channels); each set is normalised by its statistics. ``mean``, ``variance``: (sets,
    channels), the same within each group of ``group_size`` neighbouring channels. ``eps``: added to the variance.
    ``scale``, ``shift``: (channels,). ``weight``: (out, channels).

    Mean and variance must be those of ``x``. The gradient of ``x`` includes the path through them, so they get none.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, group_size: int, eps: float,
        scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """Compute (sets, voxels, out)."""
        rate = torch.rsqrt(variance + eps)
        by_set = scale * rate
        weights, biases = weight * by_set[:, None], bias + (shift - mean * by_set) @ weight.t()
        ctx.save_for_backward(x, mean, rate, scale, shift, weight)
        ctx.group_size = group_size
        y: Tensor = torch.baddbmm(biases[:, None], x, weights.mT)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the inputs from that of the output.

        The formulas are those of Ioffe and Szegedy 2015 (arXiv:1502.03167), section 3. Sums over voxels come first, so
        that the statistics cost no more than products of small matrices.
        """
        x, mean, rate, scale, shift, weight = ctx.saved_tensors
        sums = gradient.sum(1)
        products = rate[:, None] * (gradient.mT @ x - sums[:, :, None] * mean[:, None])  # of gradient and normalised x
        back, back_x = sums @ weight, (products * weight).sum(1)  # to the normalised, and times the normalised, summed
        constant, linear = (_mean_of_groups(scale * total, ctx.group_size) / x.shape[1] for total in (back, back_x))
        slope = -rate.square() * linear
        offset = -rate * constant - slope * mean
        to_x = torch.baddbmm(offset[:, None], gradient, weight * (scale * rate)[:, None]).addcmul_(x, slope[:, None])
        to_weight = (products * scale + sums[:, :, None] * shift).sum(0)
        return to_x, None, None, None, None, back_x.sum(0), back.sum(0), to_weight, sums.sum(0)


def _mean_of_groups(channels: Tensor, group_size: int) -> Tensor:
    """Replace each of (sets, channels) by the mean of the channels of its group."""
    groups = channels.reshape(len(channels), -1, group_size)
    return groups.mean(2, keepdim=True).expand_as(groups).flatten(1)
