"""Kernels of the interpolation to twice the sides: a program writes some voxels, one after the other in memory.

Along an axis of n voxels, voxel o of the doubled image lies at o (n - 1) / (2 n - 1). The positions are computed with
integers, so that no rounding moves a voxel to another neighbour.
"""

import triton
import triton.language as tl
from torch import Tensor

from pipeline.kernels.operators import voxel_stride
from pipeline.kernels.programs.tiles import grid_of_voxels

ELEMENTS = 2048
"""Of a tile, so that a thread of 128 holds sixteen."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _position(index, side, doubled):
    """Return the lower neighbour of a voxel of the doubled image along an axis, and the share of the upper."""
    span = tl.maximum(doubled - 1, 1)
    numerator = index * (side - 1)
    return numerator // span, (numerator % span).to(tl.float32) / span


@triton.jit
def _first(index, side, doubled):
    """Return the first voxel of the doubled image that lies less than a voxel beyond the one before ``index``."""
    return tl.where(index > 0, (tl.maximum(index - 1, 0) * (doubled - 1)) // tl.maximum(side - 1, 1) + 1, 0)


@triton.jit
def _weight(index, voxel, side, doubled):
    """Return the share of voxel ``index`` in a voxel of the doubled image along an axis; 0 where that is outside."""
    span = tl.maximum(doubled - 1, 1)
    distance = voxel * (side - 1) - index * span
    weight = tl.maximum(1.0 - tl.abs(distance).to(tl.float32) / span, 0.0)
    return tl.where(voxel < doubled, weight, 0.0)


@triton.jit
def _double(
    x, skip, y, voxels, slices, rows, columns, new_slices, stride, skip_stride, channels, skipped,
    SLICES: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr, SKIPPED: tl.constexpr,
):  # fmt: skip
    """Write some voxels of the doubled image, from two rows of each of ``SLICES`` slices, and then of ``skip``."""
    voxel, channel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)[:, None], tl.arange(0, CHANNELS)[None, :]
    new_rows, new_columns = 2 * rows, 2 * columns
    line = voxel // new_columns
    plane = line // new_rows
    low_x, share_x = _position(voxel % new_columns, columns, new_columns)
    low_y, share_y = _position(line % new_rows, rows, new_rows)
    low_z, share_z = _position(plane % new_slices, slices, new_slices)
    high_x = tl.minimum(low_x + 1, columns - 1)
    valid = (voxel < voxels) & (channel < channels)
    total = tl.zeros((VOXELS, CHANNELS), tl.float32)
    for upper_z in range(SLICES):
        source_z = plane // new_slices * slices + tl.minimum(low_z + upper_z, slices - 1)
        weight_z = upper_z * share_z + (1 - upper_z) * (1.0 - share_z)
        for upper_y in range(2):
            source = (source_z * rows + tl.minimum(low_y + upper_y, rows - 1)) * columns
            weight = weight_z * (upper_y * share_y + (1 - upper_y) * (1.0 - share_y))
            low = tl.load(x + (source + low_x).to(tl.int64) * stride + channel, mask=valid, other=0.0)
            high = tl.load(x + (source + high_x).to(tl.int64) * stride + channel, mask=valid, other=0.0)
            total += weight * (low.to(tl.float32) * (1.0 - share_x) + high.to(tl.float32) * share_x)
    y += voxel.to(tl.int64) * (channels + skipped)
    tl.store(y + channel, total.to(y.dtype.element_ty), mask=valid)
    channel = tl.arange(0, SKIPPED)[None, :]
    valid = (voxel < voxels) & (channel < skipped)
    copy = tl.load(skip + voxel.to(tl.int64) * skip_stride + channel, mask=valid, other=0.0)
    tl.store(y + channels + channel, copy.to(y.dtype.element_ty), mask=valid)


@triton.jit
def _gather(
    gradient, to_x, voxels, slices, rows, columns, new_slices, stride, channels,
    SLICES: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of some voxels of the image.

    A voxel has a share in the voxels of the doubled image that are less than a voxel away: five along an axis at the
    most, so 5 x 5 in ``SLICES`` slices.
    """
    voxel, channel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)[:, None], tl.arange(0, CHANNELS)[None, :]
    new_rows, new_columns = 2 * rows, 2 * columns
    line = voxel // columns
    plane = line // rows
    at_x, at_y, at_z = voxel % columns, line % rows, plane % slices
    first_x, first_y = _first(at_x, columns, new_columns), _first(at_y, rows, new_rows)
    first_z = _first(at_z, slices, new_slices)
    valid = (voxel < voxels) & (channel < channels)
    total = tl.zeros((VOXELS, CHANNELS), tl.float32)
    for step_z in range(SLICES):
        weight_z = _weight(at_z, first_z + step_z, slices, new_slices)
        source_z = plane // slices * new_slices + first_z + step_z
        for step_y in range(5):
            weight_zy = weight_z * _weight(at_y, first_y + step_y, rows, new_rows)
            source = (source_z * new_rows + first_y + step_y).to(tl.int64) * new_columns + first_x
            for step_x in tl.static_range(5):
                weight = weight_zy * _weight(at_x, first_x + step_x, columns, new_columns)
                reaches = valid & (weight > 0)
                slope = tl.load(gradient + (source + step_x) * stride + channel, mask=reaches, other=0.0)
                total += weight * slope.to(tl.float32)
    tl.store(to_x + voxel.to(tl.int64) * channels + channel, total.to(to_x.dtype.element_ty), mask=valid)


def double_and_join(x: Tensor, skip: Tensor, sides: list[int]) -> Tensor:
    """Interpolate (batch, voxels, channels) to twice the sides, and append the channels of ``skip``."""
    slices, rows, columns, new_slices = _sides(sides)
    (batch, new_voxels, skipped), channels = skip.shape, x.shape[2]
    y = x.new_empty(batch, new_voxels, channels + skipped)
    voxels = batch * new_voxels
    grid, widths = grid_of_voxels(voxels, channels, ELEMENTS)
    _double[grid](
        x, skip, y, voxels, slices, rows, columns, new_slices, voxel_stride(x), voxel_stride(skip), channels, skipped,
        2 if len(sides) == 3 else 1, *widths, triton.next_power_of_2(skipped), **OPTIONS,
    )  # fmt: skip
    return y


def double_backward(gradient: Tensor, sides: list[int]) -> Tensor:
    """Return the gradient of the image with these sides, (batch, voxels, channels)."""
    slices, rows, columns, new_slices = _sides(sides)
    voxels, channels = len(gradient) * slices * rows * columns, gradient.shape[2]
    to_x = gradient.new_empty(len(gradient), slices * rows * columns, channels)
    grid, widths = grid_of_voxels(voxels, channels, ELEMENTS)
    _gather[grid](
        gradient, to_x, voxels, slices, rows, columns, new_slices, voxel_stride(gradient), channels,
        5 if len(sides) == 3 else 1, *widths, **OPTIONS,
    )  # fmt: skip
    return to_x


def _sides(sides: list[int]) -> tuple[int, int, int, int]:
    """Return the three sides and the number of slices afterwards; a slice alone stays alone."""
    rows, columns = sides[-2:]
    return (sides[0], rows, columns, 2 * sides[0]) if len(sides) == 3 else (1, rows, columns, 1)
