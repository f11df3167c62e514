"""Predict the noise in blocks of an image from the variance of its sinogram, without drawing any.

Filtered backprojection turns noise that is white along the detector into noise whose spectrum has the shape of the
squared filter over frequency. What a block has of it at frequencies of one direction comes from the rays across that
direction through the block (central slice theorem). So its power is a sum over directions: variance of those rays
times what noise of variance 1 gives. The latter is measured once.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.lowdose.blocks import DIRECTIONS, Blocks
from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.noise import Reconstruction
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP

_FIELDS = 1
_SEED = 20260


def unit_power(reconstruct: Reconstruction, geometry: FanGeometry, blocks: Blocks) -> NDArray[np.float64]:
    """Return what each direction gives to the rings of a block (RINGS, DIRECTIONS), for white noise of variance 1."""
    generator = torch.Generator().manual_seed(_SEED)
    coarse = geometry.scanner.views // VIEW_STEP, geometry.scanner.channels // CHANNEL_STEP
    deviation = reconstruct.deviation(torch.ones(1, *coarse))
    image = reconstruct(torch.randn(_FIELDS, *reconstruct.shape, generator=generator) * deviation).numpy()
    axis = blocks.centres(geometry.side)
    inside = np.hypot(axis[:, None], axis) + blocks.side < min(geometry.side / 2, geometry.radius)
    return blocks.sector_power(blocks.cut(image, *np.broadcast_to(inside, (_FIELDS, *inside.shape)).nonzero()))


def block_variance(
    geometry: FanGeometry, variances: Tensor, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the variance of the rays through the centres of blocks, by the direction across the rays.

    Args:
        geometry: of scanner and image.
        variances: of the sinogram, (slices, coarse views, coarse channels).
        x: of each centre, pixels to the right of the image's centre.
        y: of each centre, pixels below it.

    Returns:
        (slices, blocks, DIRECTIONS).
    """
    right, down = (torch.from_numpy(axis)[:, None] * geometry.pixel for axis in (x, y))
    quarter = geometry.view_angles(VIEW_STEP)
    angles = torch.cat([quarter + turn * math.pi / 2 for turn in range(4)])
    depth = geometry.scanner.source_isocentre_mm - right * angles.sin() + down * angles.cos()
    fan_angle = torch.atan2(right * angles.cos() + down * angles.sin(), depth)  # (blocks, views)
    channel = ((geometry.channel_position(fan_angle) - (CHANNEL_STEP - 1) / 2) / CHANNEL_STEP).round().long()
    index = torch.arange(len(angles)) * variances.shape[2] + channel.clamp(0, variances.shape[2] - 1)
    weights = 1 - (fan_angle.roll(-1, 1) - fan_angle.roll(1, 1)) * len(angles) / (4 * math.pi)  # directions per view
    sector = ((angles - fan_angle) / (math.pi / DIRECTIONS)).round().long() % DIRECTIONS
    rays = variances.double().flatten(1)[:, index] * weights  # (slices, blocks, views)
    sums = torch.zeros(len(index), DIRECTIONS, dtype=torch.float64).scatter_add_(1, sector, weights)
    totals = torch.zeros(len(variances), *sums.shape, dtype=torch.float64)
    return (totals.scatter_add_(2, sector.expand_as(rays), rays) / sums).numpy()
