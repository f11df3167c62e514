"""Halving and doubling of images' sides, by kernels on GPUs: what networks with levels share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.convolutions.memory_format import channels_last
from pipeline.kernels.choice import uses_kernels
from pipeline.kernels.pooling import max_pool
from pipeline.kernels.upsampling import double_and_join
from pipeline.models.dimensions import LINEAR, MAX_POOL


def halve(x: Tensor) -> Tensor:
    """Take the maxima of windows of 3 at every second pixel: (batch, channels, sides) to half the sides."""
    if uses_kernels(x):
        return max_pool(x)
    y: Tensor = MAX_POOL[x.dim() - 2](x, 3, stride=2, padding=1)
    return y


def double_beside(x: Tensor, skip: Tensor) -> Tensor:
    """Interpolate to twice the sides, the corners of both images in line; concatenate with the skip connection."""
    if uses_kernels(x):
        return double_and_join(x, skip)
    y = F.interpolate(x, scale_factor=2, mode=LINEAR[x.dim() - 2], align_corners=True)
    if y.requires_grad:
        y.register_hook(_compact)
    return torch.cat([y, skip], 1)


def _compact(gradient: Tensor) -> Tensor:
    """Copy a part of a concatenation's gradient: its gaps slow the interpolation's backward pass four times."""
    return gradient.contiguous(memory_format=channels_last(gradient.dim() - 2))
