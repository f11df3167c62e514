"""Kernels of group norm, two for each direction: sums of blocks, then the image by the sums of all blocks.

A tile holds some rows and all channels, filled up to a power of two. What belongs to a group is added up through
``_members``, which says which channels are in which group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.kernels.operators import voxel_stride
from pipeline.kernels.programs.tiles import OPTIONS, Tiling, tile


@triton.jit
def _members(channels, size, GROUPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return whether a channel is in a group, (GROUPS, CHANNELS)."""
    channel = tl.arange(0, CHANNELS)[None, :]
    return (channel // size == tl.arange(0, GROUPS)[:, None]) & (channel < channels)


@triton.jit
def _add_groups(by_channel, members):
    """Add up channels by group: (CHANNELS,) to (GROUPS,)."""
    return tl.sum(tl.where(members, by_channel[None, :], 0.0), 1)


@triton.jit
def _spread(by_group, members):
    """Repeat a group's number for each of its channels: (GROUPS,) to (CHANNELS,)."""
    return tl.sum(tl.where(members, by_group[:, None], 0.0), 0)


@triton.jit
def _measure(
    x, means, squares, voxels, stride, channels, groups, size, span,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Write a block's mean and sum of squared deviations by group, each (batch, blocks, groups).

    Sums are of differences to the first tile's mean. As that tile is part of the block, they are at most as many
    times larger than the deviations from the block's mean as the block has tiles: float32 is precise enough.
    """
    block, sample, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    start = block * span
    count = tl.minimum(voxels - start, span)
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    x += (sample.to(tl.int64) * voxels + start) * stride
    valid = (row < count) & (channel < channels)
    first = tl.load(x + row * stride + channel, mask=valid, other=0.0).to(tl.float32)
    centre = tl.sum(first, 0) / tl.minimum(count, ROWS)
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        image = tl.load(x + (row + top) * stride + channel, mask=valid, other=0.0).to(tl.float32)
        deviation = tl.where(valid, image - centre[None, :], 0.0)
        sums += deviation
        products += deviation * deviation
    offset = tl.sum(sums, 0) / count
    deviations = tl.sum(products, 0) - offset * offset * count
    members = _members(channels, size, GROUPS, CHANNELS)
    mean = _add_groups(centre + offset, members) / size
    distance = centre + offset - _spread(mean, members)
    square = _add_groups(deviations + distance * distance * count, members)
    group = tl.arange(0, GROUPS)
    target = (sample * blocks + block) * groups + group
    tl.store(means + target, mean, mask=group < groups)
    tl.store(squares + target, square, mask=group < groups)


@triton.jit
def _normalise(
    x, means, squares, scale, shift, y, mean_of_all, rate_of_all, voxels, stride, channels, groups, size, span, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Pool the blocks' statistics (Chan et al. 1979), normalise a block by them; the first block writes them."""
    block, sample, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    part, group = tl.arange(0, BLOCKS)[:, None], tl.arange(0, GROUPS)[None, :]
    is_block = (part < blocks) & (group < groups)
    source = (sample * blocks + part) * groups + group
    part_means = tl.load(means + source, mask=is_block, other=0.0)
    counts = tl.where(is_block, tl.minimum(voxels - part * span, span), 0).to(tl.float32)
    first = tl.load(means + sample * blocks * groups + group, mask=group < groups, other=0.0)
    mean = tl.sum(first, 0) + tl.sum((part_means - first) * counts, 0) / voxels
    distance = tl.where(is_block, part_means - mean[None, :], 0.0)
    square = tl.sum(tl.load(squares + source, mask=is_block, other=0.0) + counts * size * distance * distance, 0)
    rate = 1.0 / tl.sqrt(square / voxels / size + eps)
    if block == 0:
        target = sample * groups + tl.arange(0, GROUPS)
        tl.store(mean_of_all + target, mean, mask=tl.arange(0, GROUPS) < groups)
        tl.store(rate_of_all + target, rate, mask=tl.arange(0, GROUPS) < groups)

    members = _members(channels, size, GROUPS, CHANNELS)
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    centre, factor = _spread(mean, members)[None, :], _spread(rate, members)[None, :]
    constant = tl.zeros((1, CHANNELS), tl.float32)
    if scale is not None:
        factor *= tl.load(scale + channel, mask=channel < channels, other=0.0)
        constant += tl.load(shift + channel, mask=channel < channels, other=0.0)
    start = block * span
    count = tl.minimum(voxels - start, span)
    x += (sample.to(tl.int64) * voxels + start) * stride
    y += (sample.to(tl.int64) * voxels + start) * channels
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        image = tl.load(x + (row + top) * stride + channel, mask=valid, other=0.0).to(tl.float32)
        output = (image - centre) * factor + constant
        tl.store(y + (row + top) * channels + channel, output.to(y.dtype.element_ty), mask=valid)


@triton.jit
def _measure_gradient(
    gradient, x, mean, rate, scale, by_channel, by_group, voxels, gradient_stride, stride, channels, groups, size, span,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Write a block's sums of gradient times standardised x and of the gradient.

    ``by_channel``: (batch, blocks, 2, channels). ``by_group``: the same, times the scale, (batch, blocks, 2, groups).
    """
    block, sample, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    group_of = sample * groups + channel // size
    centre = tl.load(mean + group_of, mask=channel < channels, other=0.0)
    factor = tl.load(rate + group_of, mask=channel < channels, other=0.0)
    start = block * span
    count = tl.minimum(voxels - start, span)
    x += (sample.to(tl.int64) * voxels + start) * stride
    gradient += (sample.to(tl.int64) * voxels + start) * gradient_stride
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        image = tl.load(x + (row + top) * stride + channel, mask=valid, other=0.0).to(tl.float32)
        slope = tl.load(gradient + (row + top) * gradient_stride + channel, mask=valid, other=0.0).to(tl.float32)
        sums += slope
        products += slope * (image - centre)
    total = tl.sum(sums, 0)
    product = tl.sum(products * factor, 0)
    target = (sample * blocks + block) * 2
    channel = tl.arange(0, CHANNELS)
    tl.store(by_channel + target * channels + channel, product, mask=channel < channels)
    tl.store(by_channel + (target + 1) * channels + channel, total, mask=channel < channels)
    if scale is not None:
        weight = tl.load(scale + channel, mask=channel < channels, other=0.0)
        total *= weight
        product *= weight
    members = _members(channels, size, GROUPS, CHANNELS)
    group = tl.arange(0, GROUPS)
    tl.store(by_group + target * groups + group, _add_groups(product, members), mask=group < groups)
    tl.store(by_group + (target + 1) * groups + group, _add_groups(total, members), mask=group < groups)


@triton.jit
def _propagate(
    gradient, x, mean, rate, scale, by_group, to_x, voxels, gradient_stride, stride, channels, groups, size, span,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x, after Ioffe and Szegedy 2015 (arXiv:1502.03167), section 3."""
    block, sample, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    part, group = tl.arange(0, BLOCKS)[:, None], tl.arange(0, GROUPS)[None, :]
    is_block = (part < blocks) & (group < groups)
    source = (sample * blocks + part) * 2 * groups + group
    product = tl.sum(tl.load(by_group + source, mask=is_block, other=0.0), 0) / voxels / size
    total = tl.sum(tl.load(by_group + source + groups, mask=is_block, other=0.0), 0) / voxels / size

    members = _members(channels, size, GROUPS, CHANNELS)
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, CHANNELS)[None, :]
    group_of = sample * groups + channel // size
    centre = tl.load(mean + group_of, mask=channel < channels, other=0.0)
    factor = tl.load(rate + group_of, mask=channel < channels, other=0.0)
    weight = factor
    if scale is not None:
        weight *= tl.load(scale + channel, mask=channel < channels, other=0.0)
    linear = factor * factor * _spread(product, members)[None, :]
    constant = factor * _spread(total, members)[None, :]
    start = block * span
    count = tl.minimum(voxels - start, span)
    x += (sample.to(tl.int64) * voxels + start) * stride
    gradient += (sample.to(tl.int64) * voxels + start) * gradient_stride
    to_x += (sample.to(tl.int64) * voxels + start) * channels
    for top in range(0, count, ROWS):
        valid = (row + top < count) & (channel < channels)
        image = tl.load(x + (row + top) * stride + channel, mask=valid, other=0.0).to(tl.float32)
        slope = tl.load(gradient + (row + top) * gradient_stride + channel, mask=valid, other=0.0).to(tl.float32)
        output = slope * weight - constant - (image - centre) * linear
        tl.store(to_x + (row + top) * channels + channel, output.to(to_x.dtype.element_ty), mask=valid)


def group_norm(
    x: Tensor, groups: int, scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise (batch, voxels, channels); return it with mean and 1 / standard deviation, each (batch, groups)."""
    batch, voxels, channels = x.shape
    tiling, sizes = tile(voxels, channels), (channels, groups, channels // groups)
    means, squares = x.new_empty(2, batch, tiling.blocks, groups, dtype=torch.float32)
    mean, rate = (x.new_empty(batch, groups, dtype=torch.float32) for _ in range(2))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid, widths = (tiling.blocks, batch), _widths(tiling, groups)
    _measure[grid](x, means, squares, voxels, voxel_stride(x), *sizes, tiling.span, *widths, **OPTIONS)
    _normalise[grid](
        x, means, squares, scale, shift, y, mean, rate, voxels, voxel_stride(x), *sizes, tiling.span, eps,
        *widths, triton.next_power_of_2(tiling.blocks), **OPTIONS,
    )  # fmt: skip
    return y, mean, rate


def group_norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rate: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, (batch, voxels, channels), and those of scale and shift, (2, channels)."""
    batch, voxels, channels = x.shape
    groups = mean.shape[1]
    tiling = tile(voxels, channels)
    by_channel = mean.new_empty(batch, tiling.blocks, 2, channels)
    by_group = mean.new_empty(batch, tiling.blocks, 2, groups)
    to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid, widths = (tiling.blocks, batch), _widths(tiling, groups)
    sizes = voxels, voxel_stride(gradient), voxel_stride(x), channels, groups, channels // groups, tiling.span
    _measure_gradient[grid](gradient, x, mean, rate, scale, by_channel, by_group, *sizes, *widths, **OPTIONS)
    _propagate[grid](
        gradient, x, mean, rate, scale, by_group, to_x, *sizes,
        *widths, triton.next_power_of_2(tiling.blocks), **OPTIONS,
    )  # fmt: skip
    return to_x, by_channel.sum((0, 1))


def _widths(tiling: Tiling, groups: int) -> tuple[int, int, int]:
    return tiling.rows, tiling.channels, triton.next_power_of_2(groups)
