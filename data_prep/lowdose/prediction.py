"""Predict the noise in blocks of an image from the variance of its sinogram, without drawing any.

Filtered backprojection turns noise that is white along the detector into noise whose spectrum has the shape of the
squared filter over frequency. What a block has of it at frequencies of one direction comes from the rays across that
direction through the block (central slice theorem). So its power is a sum over directions: variance of those rays
times what noise of variance 1 gives.
"""

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.lowdose.blocks import DIRECTIONS, Blocks, Power, sector_of
from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.noise import Reconstruction
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP


def unit_power(reconstruct: Reconstruction, geometry: FanGeometry, blocks: Blocks) -> Power:
    """Return what each direction gives to the rings of a block (RINGS, DIRECTIONS), for noise of variance 1 in a fan.

    A block shows frequencies above those of its pixels as lower ones.
    """
    x, y = blocks.waves
    cell = 2 / (blocks.wave_steps * geometry.pixel) ** 2  # the waves are those of half a plane
    unit = np.zeros((len(blocks.ring_bins), DIRECTIONS))
    highest = math.floor(2 * geometry.nyquist * geometry.pixel + 0.5)
    folds = range(-highest, highest + 1)
    for right, down in product(folds, folds):
        power = reconstruct.noise_power((x + right) / geometry.pixel, (y + down) / geometry.pixel) * cell
        in_sector = sector_of(np.arctan2(y + down, x + right))[:, None] == np.arange(DIRECTIONS)
        unit += blocks.wave_power.T @ (power[:, None] * in_sector)
    return unit


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
    sector = torch.from_numpy(sector_of((angles - fan_angle).numpy()))
    rays = variances.double().flatten(1)[:, index] * weights  # (slices, blocks, views)
    sums = torch.zeros(len(index), DIRECTIONS, dtype=torch.float64).scatter_add_(1, sector, weights)
    totals = torch.zeros(len(variances), *sums.shape, dtype=torch.float64)
    return (totals.scatter_add_(2, sector.expand_as(rays), rays) / sums).numpy()
