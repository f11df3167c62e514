"""Kernels that correlate contiguous images, (outer, n, inner), with a few weights along their middle axis.

A tile holds rows and columns, so that the voxels that neighbouring outputs share are read from the L1 cache. Gradients
are correlations too, with the weights reversed and zeros around the image.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Of a tile: with a window of 11, each voxel is read from beyond the L1 cache 1.6 times."""
ELEMENTS = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _offsets(rows, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return where a tile of (rows, inner) lies in memory, and which of it is inside."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row * inner + column, (row < rows) & (column < inner)


@triton.jit
def _blur_moments(x, y, moments, side, rows, inner, TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write the blurred x, y, x * x, y * y and x * y of images, (outer, 5, rows, inner)."""
    offset, valid = _offsets(rows, inner, ROWS, COLUMNS)
    image = tl.program_id(0).to(tl.int64)
    x += image * side * inner
    y += image * side * inner
    mean_x = tl.zeros((ROWS, COLUMNS), tl.float32)
    mean_y = tl.zeros((ROWS, COLUMNS), tl.float32)
    square_x = tl.zeros((ROWS, COLUMNS), tl.float32)
    square_y = tl.zeros((ROWS, COLUMNS), tl.float32)
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(len(TAPS)):
        of_x = tl.load(x + offset + tap * inner, mask=valid, other=0.0)
        of_y = tl.load(y + offset + tap * inner, mask=valid, other=0.0)
        mean_x += TAPS[tap] * of_x
        mean_y += TAPS[tap] * of_y
        square_x += TAPS[tap] * (of_x * of_x)
        square_y += TAPS[tap] * (of_y * of_y)
        product += TAPS[tap] * (of_x * of_y)
    size = rows * inner
    moments += image * 5 * size + offset
    tl.store(moments, mean_x, mask=valid)
    tl.store(moments + size, mean_y, mask=valid)
    tl.store(moments + 2 * size, square_x, mask=valid)
    tl.store(moments + 3 * size, square_y, mask=valid)
    tl.store(moments + 4 * size, product, mask=valid)


@triton.jit
def _spread_moments(
    gradient, x, y, to_x, to_y, side, rows, inner,
    TAPS: tl.constexpr, NEEDS_Y: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x and, if needed, y from that of the moments, (outer, 5, rows, inner)."""
    offset, valid = _offsets(side, inner, ROWS, COLUMNS)
    image = tl.program_id(0).to(tl.int64)
    size = rows * inner
    gradient += image * 5 * size
    to_mean_x = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_square_x = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_product = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_mean_y = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_square_y = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(len(TAPS)):
        source = offset - tap * inner
        inside = valid & (source >= 0) & (source < size)
        source += gradient
        to_mean_x += TAPS[tap] * tl.load(source, mask=inside, other=0.0)
        to_square_x += TAPS[tap] * tl.load(source + 2 * size, mask=inside, other=0.0)
        to_product += TAPS[tap] * tl.load(source + 4 * size, mask=inside, other=0.0)
        if NEEDS_Y:
            to_mean_y += TAPS[tap] * tl.load(source + size, mask=inside, other=0.0)
            to_square_y += TAPS[tap] * tl.load(source + 3 * size, mask=inside, other=0.0)
    offset += image * side * inner
    of_x = tl.load(x + offset, mask=valid, other=0.0)
    of_y = tl.load(y + offset, mask=valid, other=0.0)
    tl.store(to_x + offset, to_mean_x + 2.0 * of_x * to_square_x + of_y * to_product, mask=valid)
    if NEEDS_Y:
        tl.store(to_y + offset, to_mean_y + 2.0 * of_y * to_square_y + of_x * to_product, mask=valid)


@triton.jit
def _correlate(
    x, y, outer, side, rows, inner, padding,
    TAPS: tl.constexpr, IS_LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the correlation of images, (outer, side, inner), with zeros around: (outer, rows, inner).

    A tile holds some rows and columns of an image, or positions on some lines if the axis is the last (inner is 1).
    """
    if IS_LAST:
        line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        position = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        valid = (line < outer) & (position < rows)
        x += line * side + position
        y += line * rows + position
    else:
        offset, valid = _offsets(rows, inner, ROWS, COLUMNS)
        position = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
        image = tl.program_id(0).to(tl.int64)
        x += image * side * inner + offset
        y += image * rows * inner + offset
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(len(TAPS)):
        source = position + (tap - padding)
        inside = valid & (source >= 0) & (source < side)
        total += TAPS[tap] * tl.load(x + (tap - padding) * inner, mask=inside, other=0.0)
    tl.store(y, total, mask=valid)


def blur_moments(x: Tensor, y: Tensor, taps: Sequence[float]) -> Tensor:
    """Blur both images, (outer, n, inner), their squares and their product: (outer, 5, n - taps + 1, inner)."""
    outer, side, inner = x.shape
    rows = side - len(taps) + 1
    moments = x.new_empty(outer, 5, rows, inner)
    grid, tile = _tile(outer, rows, inner)
    _blur_moments[grid](x, y, moments, side, rows, inner, tuple(taps), *tile, **OPTIONS)
    return moments


def blur_moments_backward(
    gradient: Tensor, x: Tensor, y: Tensor, taps: Sequence[float], needs_y: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, and that of y if needed, from that of the moments."""
    outer, side, inner = x.shape
    to_x, to_y = torch.empty_like(x), torch.empty_like(y) if needs_y else y.new_empty(0)
    grid, tile = _tile(outer, side, inner)
    _spread_moments[grid](
        gradient, x, y, to_x, to_y, side, gradient.shape[2], inner, tuple(taps), needs_y, *tile, **OPTIONS
    )
    return to_x, to_y


def correlate(x: Tensor, taps: Sequence[float], padding: int) -> Tensor:
    """Correlate (outer, n, inner), with zeros before and after: (outer, n + 2 padding - taps + 1, inner)."""
    outer, side, inner = x.shape
    rows = side + 2 * padding - len(taps) + 1
    y = x.new_empty(outer, rows, inner)
    is_last = inner == 1
    grid, tile = _tile_lines(outer, rows) if is_last else _tile(outer, rows, inner)
    _correlate[grid](x, y, outer, side, rows, inner, padding, tuple(taps), is_last, *tile, **OPTIONS)
    return y


def _tile_lines(lines: int, positions: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the same for positions on lines: of these there may be more than the 65,535 that only x takes."""
    (_, down, across), tile = _tile(1, lines, positions)
    return (down, 1, across), tile


def _tile(outer: int, rows: int, columns: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the grid and the sides of a tile."""
    height = min(ROWS, triton.next_power_of_2(rows))
    width = min(ELEMENTS // height, triton.next_power_of_2(columns))
    return (outer, -(-rows // height), -(-columns // width)), (height, width)
