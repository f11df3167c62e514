"""Kernels that add a convolution's bias and apply leaky ReLU, and that of their gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.kernels.operators import voxel_stride
from pipeline.kernels.programs.tiles import OPTIONS, tile


@triton.jit
def _activate(y, bias, rows, channels, span, slope, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Activate a block in its memory."""
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    start = tl.program_id(0) * span
    count = tl.minimum(rows - start, span)
    y += start.to(tl.int64) * channels
    shift = tl.load(bias + channel, mask=channel < channels, other=0.0)
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        target = y + (row + top) * channels + channel
        image = tl.load(target, mask=valid, other=0.0).to(tl.float32) + shift
        tl.store(target, tl.where(image > 0, image, image * slope).to(y.dtype.element_ty), mask=valid)


@triton.jit
def _propagate(
    gradient, y, to_y, sums, rows, stride, channels, span, slope, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write the gradient of a block's input, and its sum by channel, (blocks, channels)."""
    block = tl.program_id(0)
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    start = block * span
    count = tl.minimum(rows - start, span)
    gradient += start.to(tl.int64) * stride
    y += start.to(tl.int64) * channels
    to_y += start.to(tl.int64) * channels
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        source = (row + top) * channels + channel
        output = tl.load(gradient + (row + top) * stride + channel, mask=valid, other=0.0).to(tl.float32)
        image = tl.load(y + source, mask=valid, other=0.0).to(tl.float32)
        output = tl.where(image > 0, output, output * slope)
        total += output
        tl.store(to_y + source, output.to(to_y.dtype.element_ty), mask=valid)
    channel = tl.arange(0, CHANNELS)
    tl.store(sums + block * channels + channel, tl.sum(total, 0), mask=channel < channels)


def activate(y: Tensor, bias: Tensor, slope: float) -> None:
    """Replace (batch, voxels, channels), without gaps, by its leaky ReLU after a bias."""
    rows, channels = y.shape[0] * y.shape[1], y.shape[2]
    tiling = tile(rows, channels)
    _activate[(tiling.blocks,)](y, bias, rows, channels, tiling.span, slope, tiling.rows, tiling.channels, **OPTIONS)


def activate_backward(gradient: Tensor, y: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of the input, (batch, voxels, channels), and of the bias, (channels,)."""
    rows, channels = y.shape[0] * y.shape[1], y.shape[2]
    tiling = tile(rows, channels)
    to_y = torch.empty_like(y)
    sums = y.new_empty(tiling.blocks, channels, dtype=torch.float32)
    _propagate[(tiling.blocks,)](
        gradient, y, to_y, sums, rows, voxel_stride(gradient), channels, tiling.span, slope,
        tiling.rows, tiling.channels, **OPTIONS,
    )  # fmt: skip
    return to_y, sums.sum(0)
