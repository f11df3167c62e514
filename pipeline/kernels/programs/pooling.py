"""Kernels of max pooling in windows of 3 at every second voxel: a program writes some voxels of an image."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.kernels.operators import voxel_stride
from pipeline.kernels.programs.tiles import OPTIONS, grid_of_voxels


@triton.jit
def _pool(
    x, y, positions, voxels, slices, rows, columns, stride, channels,
    SLICES: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write maxima, and where in their windows of ``SLICES`` slices they are; a number that is none is a maximum."""
    voxel, channel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)[:, None], tl.arange(0, CHANNELS)[None, :]
    new_slices, new_rows, new_columns = (slices + 1) // 2, (rows + 1) // 2, (columns + 1) // 2
    line = voxel // new_columns
    plane = line // new_rows
    first_x, first_y, first_z = voxel % new_columns * 2 - 1, line % new_rows * 2 - 1, plane % new_slices * 2 - 1
    valid = (voxel < voxels) & (channel < channels)
    best = tl.full((VOXELS, CHANNELS), float("-inf"), tl.float32)
    position = tl.full((VOXELS, CHANNELS), 13, tl.int32)  # the middle
    for step in range(SLICES * 9):
        at_z = first_z + (step // 9 if SLICES == 3 else 1)
        at_y = first_y + step // 3 % 3
        at_x = first_x + step % 3
        inside = (at_z >= 0) & (at_z < slices) & (at_y >= 0) & (at_y < rows) & (at_x >= 0) & (at_x < columns)
        source = ((plane // new_slices * slices + at_z) * rows + at_y).to(tl.int64) * columns + at_x
        image = tl.load(x + source * stride + channel, mask=valid & inside, other=float("-inf")).to(tl.float32)
        is_best = (image > best) | (image != image)
        best = tl.where(is_best, image, best)
        position = tl.where(is_best, step + (0 if SLICES == 3 else 9), position)
    target = voxel.to(tl.int64) * channels + channel
    tl.store(y + target, best.to(y.dtype.element_ty), mask=valid)
    tl.store(positions + target, position.to(tl.uint8), mask=valid)


@triton.jit
def _gather(
    gradient, positions, to_x, voxels, slices, rows, columns, stride, channels,
    SLICES: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of voxels: each is in one or two windows along each axis, in ``SLICES`` at most along z."""
    voxel, channel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)[:, None], tl.arange(0, CHANNELS)[None, :]
    new_slices, new_rows, new_columns = (slices + 1) // 2, (rows + 1) // 2, (columns + 1) // 2
    line = voxel // columns
    plane = line // rows
    at_x, at_y, at_z = voxel % columns, line % rows, plane % slices
    valid = (voxel < voxels) & (channel < channels)
    total = tl.zeros((VOXELS, CHANNELS), tl.float32)
    for step in range(SLICES * 4):
        next_z, next_y, next_x = step // 4, step // 2 % 2, step % 2
        new_z, new_y, new_x = at_z // 2 + next_z, at_y // 2 + next_y, at_x // 2 + next_x
        position = ((at_z - 2 * new_z + 1) * 3 + at_y - 2 * new_y + 1) * 3 + at_x - 2 * new_x + 1
        inside = (at_z % 2 >= next_z) & (at_y % 2 >= next_y) & (at_x % 2 >= next_x)
        inside = inside & (new_z < new_slices) & (new_y < new_rows) & (new_x < new_columns) & valid
        source = ((plane // slices * new_slices + new_z) * new_rows + new_y).to(tl.int64) * new_columns + new_x
        maximum = tl.load(positions + source * channels + channel, mask=inside, other=255).to(tl.int32)
        slope = tl.load(gradient + source * stride + channel, mask=inside & (maximum == position), other=0.0)
        total += slope.to(tl.float32)
    tl.store(to_x + voxel.to(tl.int64) * channels + channel, total.to(to_x.dtype.element_ty), mask=valid)


def max_pool(x: Tensor, sides: list[int]) -> tuple[Tensor, Tensor]:
    """Pool (batch, voxels, channels); return the maxima and their positions in windows of 27."""
    three, channels = _three(sides), x.shape[2]
    voxels = len(x)
    for side in three:
        voxels *= (side + 1) // 2
    y = x.new_empty(len(x), voxels // len(x), channels)
    positions = torch.empty_like(y, dtype=torch.uint8)
    grid, widths = grid_of_voxels(voxels, channels)
    _pool[grid](
        x, y, positions, voxels, *three, voxel_stride(x), channels, 3 if len(sides) == 3 else 1, *widths, **OPTIONS
    )
    return y, positions


def max_pool_backward(gradient: Tensor, positions: Tensor, sides: list[int]) -> Tensor:
    """Return the gradient of the image with these sides, (batch, voxels, channels)."""
    slices, rows, columns = _three(sides)
    channels = gradient.shape[2]
    to_x = gradient.new_empty(len(gradient), slices * rows * columns, channels)
    voxels = len(to_x) * to_x.shape[1]
    grid, widths = grid_of_voxels(voxels, channels)
    _gather[grid](
        gradient, positions, to_x, voxels, slices, rows, columns, voxel_stride(gradient), channels,
        2 if len(sides) == 3 else 1, *widths, **OPTIONS,
    )  # fmt: skip
    return to_x


def _three(sides: list[int]) -> tuple[int, int, int]:
    return (sides[0] if len(sides) == 3 else 1), sides[-2], sides[-1]
