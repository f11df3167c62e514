"""Kernels of SSIM's formula on the blurred moments of two images (Wang et al. 2004), and of its gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.kernels.programs.tiles import OPTIONS, tile

ELEMENTS = 2048
"""Of a tile: a thread of 256 holds five moments of eight voxels."""


@triton.jit
def _load(moments, voxel, voxels, valid):
    """Return the five moments of some voxels, (5, voxels)."""
    mean_x = tl.load(moments + voxel, mask=valid, other=0.0)
    mean_y = tl.load(moments + voxels + voxel, mask=valid, other=0.0)
    square_x = tl.load(moments + 2 * voxels + voxel, mask=valid, other=0.0)
    square_y = tl.load(moments + 3 * voxels + voxel, mask=valid, other=0.0)
    product = tl.load(moments + 4 * voxels + voxel, mask=valid, other=0.0)
    return mean_x, mean_y, square_x, square_y, product


@triton.jit
def _compare(moments, sums, voxels, span, c1, c2, ROWS: tl.constexpr):
    """Write a block's sums of SSIM and of contrast and structure, (2, images, blocks)."""
    block, image = tl.program_id(0), tl.program_id(1)
    blocks, images = tl.num_programs(0), tl.num_programs(1)
    start = block * span
    moments += image.to(tl.int64) * 5 * voxels
    sum_of_full = tl.zeros((ROWS,), tl.float32)
    sum_of_contrast = tl.zeros((ROWS,), tl.float32)
    for top in range(0, tl.minimum(voxels - start, span), ROWS):
        voxel = start + top + tl.arange(0, ROWS)
        valid = voxel < voxels
        mean_x, mean_y, square_x, square_y, product = _load(moments, voxel, voxels, valid)
        variances = square_x - mean_x * mean_x + square_y - mean_y * mean_y
        contrast = (2.0 * (product - mean_x * mean_y) + c2) / (variances + c2)
        luminance = (2.0 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
        sum_of_full += tl.where(valid, luminance * contrast, 0.0)
        sum_of_contrast += tl.where(valid, contrast, 0.0)
    tl.store(sums + image * blocks + block, tl.sum(sum_of_full, 0))
    tl.store(sums + (images + image) * blocks + block, tl.sum(sum_of_contrast, 0))


@triton.jit
def _differentiate(gradient, moments, to_moments, voxels, c1, c2, ROWS: tl.constexpr):
    """Write the gradient of some voxels' moments from that of both averages, (2, images)."""
    image, images = tl.program_id(1), tl.num_programs(1)
    voxel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = voxel < voxels
    to_full = tl.load(gradient + image) / voxels
    to_contrast = tl.load(gradient + images + image) / voxels
    moments += image.to(tl.int64) * 5 * voxels
    mean_x, mean_y, square_x, square_y, product = _load(moments, voxel, voxels, valid)
    variances = square_x - mean_x * mean_x + square_y - mean_y * mean_y + c2
    squares = mean_x * mean_x + mean_y * mean_y + c1
    contrast = (2.0 * (product - mean_x * mean_y) + c2) / variances
    luminance = (2.0 * mean_x * mean_y + c1) / squares
    to_covariance = 2.0 * (to_contrast + to_full * luminance) / variances
    to_variances = -0.5 * to_covariance * contrast
    to_luminance = 2.0 * to_full * contrast / squares
    to_mean_x = to_luminance * (mean_y - luminance * mean_x) - to_covariance * mean_y - 2.0 * to_variances * mean_x
    to_mean_y = to_luminance * (mean_x - luminance * mean_y) - to_covariance * mean_x - 2.0 * to_variances * mean_y
    to_moments += image.to(tl.int64) * 5 * voxels + voxel
    tl.store(to_moments, to_mean_x, mask=valid)
    tl.store(to_moments + voxels, to_mean_y, mask=valid)
    tl.store(to_moments + 2 * voxels, to_variances, mask=valid)
    tl.store(to_moments + 3 * voxels, to_variances, mask=valid)
    tl.store(to_moments + 4 * voxels, to_covariance, mask=valid)


def compare(moments: Tensor, c1: float, c2: float) -> Tensor:
    """Average SSIM, and its part of contrast and structure, over moments, (images, 5, voxels): (2, images)."""
    images, _, voxels = moments.shape
    tiling = tile(voxels, 1, ELEMENTS)
    sums = moments.new_empty(2, images, tiling.blocks)
    _compare[tiling.blocks, images](moments, sums, voxels, tiling.span, c1, c2, tiling.rows, **OPTIONS)
    return sums.sum(2).div_(voxels)


def compare_backward(gradient: Tensor, moments: Tensor, c1: float, c2: float) -> Tensor:
    """Return the gradient of the moments from that of both averages, (2, images)."""
    images, _, voxels = moments.shape
    to_moments, rows = torch.empty_like(moments), min(ELEMENTS, triton.next_power_of_2(voxels))
    _differentiate[-(-voxels // rows), images](gradient, moments, to_moments, voxels, c1, c2, rows, **OPTIONS)
    return to_moments
