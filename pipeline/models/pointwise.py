"""Normalisation and a convolution of one pixel as one operation, which keeps and writes no normalised image.

Of the statistics a normalisation is a scale and a shift of each channel, which move into the convolution's weights.
Backward, all that the statistics need comes out of the weights' own gradient, a small matrix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.norms import ChannelNorm


def mix_channels(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """A convolution of one pixel, and leaky ReLU: (batch, in, sides) to (batch, out, sides); ``weight``: (out, in).

    ``slope`` is that of the negative side, 1 for none of it. In 3D torch's own, on CPUs in float32, takes
    channels-last images through plain memory, and what follows with them; in bfloat16 it does not, and a matrix
    product would copy the image.
    """
    if x.dim() == 5 and not torch.is_autocast_enabled(x.device.type):
        return _activated(F.linear(x.movedim(1, -1), weight, bias), slope).movedim(-1, 1)
    kernel = weight.reshape(*weight.shape, *[1] * (x.dim() - 2))
    return _activated((F.conv2d if x.dim() == 4 else F.conv3d)(x, kernel, bias), slope)


def mix_normed_channels(x: Tensor, norm: ChannelNorm, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """The same of the normalised image."""
    if norm.shared or torch.is_autocast_enabled(x.device.type):
        return mix_channels(norm(x), weight, bias, slope)
    mean, variance, together = norm.statistics(x.detach())
    voxels = x.movedim(1, -1)
    mixed: Tensor = NormedMix.apply(  # type: ignore[no-untyped-call]
        voxels.reshape(len(mean), -1, x.shape[1]),
        mean, variance, together, norm.eps, norm.weight, norm.bias, weight, bias,
    )  # fmt: skip
    return _activated(mixed, slope).reshape(*voxels.shape[:-1], -1).movedim(-1, 1)


def _activated(y: Tensor, slope: float) -> Tensor:
    """In place, which in a view of ``y`` would cost a backward pass two copies."""
    return y if slope == 1 else F.leaky_relu(y, slope, inplace=True)


class NormedMix(torch.autograd.Function):
    """``F.linear(normalised(x) * scale + shift, weight, bias)``.

    ``x``: (sets, voxels, channels), each set with statistics of its own; ``mean`` and ``variance`` of each set and
    channel, equal within the channels that are normalised together, of which there are ``together``; ``eps`` is
    added to the variance; ``scale`` and ``shift``: (channels,); ``weight``: (out, channels). Mean and variance must
    be those of ``x``: its gradient is also that of its way through them, and their own is none.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, together: int, eps: float,
        scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """(sets, voxels, out)."""
        rate = torch.rsqrt(variance + eps)
        by_set = scale * rate
        weights, biases = weight * by_set[:, None], bias + (shift - mean * by_set) @ weight.t()
        ctx.save_for_backward(x, mean, rate, scale, shift, weight)
        ctx.together = together
        y: Tensor = torch.baddbmm(biases[:, None], x, weights.mT)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Ioffe and Szegedy 2015 (arXiv:1502.03167), section 3, with the sums over voxels taken in channel space."""
        x, mean, rate, scale, shift, weight = ctx.saved_tensors
        sums = gradient.sum(1)
        products = rate[:, None] * (gradient.mT @ x - sums[:, :, None] * mean[:, None])  # of gradient and normalised x
        back, back_x = sums @ weight, (products * weight).sum(1)  # to the normalised, and times the normalised, summed
        constant, linear = (_pooled(scale * total, ctx.together) / x.shape[1] for total in (back, back_x))
        slope = -rate.square() * linear
        offset = -rate * constant - slope * mean
        to_x = torch.baddbmm(offset[:, None], gradient, weight * (scale * rate)[:, None]).addcmul_(x, slope[:, None])
        to_weight = (products * scale + sums[:, :, None] * shift).sum(0)
        return to_x, None, None, None, None, back_x.sum(0), back.sum(0), to_weight, sums.sum(0)


def _pooled(values: Tensor, together: int) -> Tensor:
    """Mean over the channels that are normalised together, for each of them; (sets, channels)."""
    groups = values.reshape(len(values), -1, together)
    return groups.mean(2, keepdim=True).expand_as(groups).flatten(1)
