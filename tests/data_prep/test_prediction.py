"""Noise predicted in blocks, against noise that is drawn."""

import math

import numpy as np
import pytest
import torch

from data_prep.lowdose.apodisation import window
from data_prep.lowdose.blocks import DIRECTIONS, WIDE, sector_of
from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.prediction import block_variance, unit_power
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP, Backprojector
from data_prep.settings import GeometrySettings

GEOMETRY = FanGeometry(GeometrySettings(views=576), 128, 1.0)
COARSE = 576 // VIEW_STEP, 736 // CHANNEL_STEP


@pytest.mark.parametrize("name", ["ramp", "hann"])
@pytest.mark.parametrize("reconstruction", [Backprojector, GriddedBackprojector])
def test_blocks_of_drawn_noise_have_the_predicted_power(
    reconstruction: type[Backprojector] | type[GriddedBackprojector], name: str
) -> None:
    """The exact one takes power away between its channels, and folds what is above the pixels' frequencies."""
    reconstruct = reconstruction(GEOMETRY, window(name, GEOMETRY.nyquist), torch.device("cpu"))
    draws = torch.randn(24, *reconstruct.shape, generator=torch.Generator().manual_seed(0))
    images = reconstruct(draws * reconstruct.deviation(torch.ones(1, *COARSE))).numpy()
    centres = WIDE.centres(GEOMETRY.side)
    inside = np.hypot(centres[:, None], centres) < 35
    blocks = WIDE.cut(images, *np.broadcast_to(inside, (len(images), *inside.shape)).nonzero())
    predicted = unit_power(reconstruct, GEOMETRY, WIDE)
    ratio = WIDE.ring_power(blocks).mean(0) / predicted.sum(1)
    np.testing.assert_allclose(ratio[1:14], 1, atol=0.1)
    assert ratio[1:14].mean() == pytest.approx(1, abs=0.05)
    by_direction = (WIDE.sector_power(blocks) * WIDE.ring_bins[:, None])[5:12].sum(0)
    expected = (predicted * WIDE.ring_bins[:, None])[5:12].sum(0)
    if name == "hann":  # folded noise of the ramp has the direction of its rays in the prediction alone
        np.testing.assert_allclose(by_direction / expected, 1, atol=0.15)


def test_a_block_has_the_variance_of_the_rays_across_each_direction() -> None:
    """Of rays whose variance goes with their direction: the same for blocks everywhere."""
    geometry = FanGeometry(GeometrySettings(), 128, 1.0)
    quarter = geometry.view_angles(VIEW_STEP)
    view = torch.cat([quarter + turn * math.pi / 2 for turn in range(4)])
    across = view[:, None] - geometry.fan_angles(CHANNEL_STEP)
    variances = (2 + torch.cos(2 * across)).float()[None]
    x, y = np.array([0.0, 40.0, -30.0]), np.array([0.0, 10.0, -50.0])
    sectors = block_variance(geometry, variances, x, y)
    width = np.sinc(1 / DIRECTIONS)  # of the mean of cos(2 x) over a sector
    expected = 2 + np.cos(2 * np.arange(DIRECTIONS) * math.pi / DIRECTIONS) * width
    np.testing.assert_allclose(sectors[0], np.broadcast_to(expected, (3, DIRECTIONS)), atol=0.06)


def test_a_block_beside_the_centre_has_the_variance_of_its_own_rays() -> None:
    """Of rays whose variance goes with view and fan angle, by tracing the rays through a point, direction by direction.

    The ray at the distance x cos(a) + y sin(a) = R sin(g) is that of the view a + g and the fan angle g.
    """
    geometry = FanGeometry(GeometrySettings(views=9216), 512, 0.7)
    quarter, fan_angle = geometry.view_angles(VIEW_STEP), geometry.fan_angles(CHANNEL_STEP)
    view = torch.cat([quarter + turn * math.pi / 2 for turn in range(4)])[:, None]

    def variance(view: torch.Tensor, fan_angle: torch.Tensor) -> torch.Tensor:
        share = fan_angle / geometry.half_width
        return 2 + share * view.sin() + torch.cos(2 * view + 1) / 2 + 2 * share**2 + share

    x, y = np.array([0.0, 200.0, -90.0]), np.array([120.0, 40.0, -220.0])
    sectors = block_variance(geometry, variance(view, fan_angle).float()[None], x, y)[0]
    direction = torch.arange(7200, dtype=torch.float64) * (2 * math.pi / 7200)
    for number, (right, down) in enumerate(zip(x * geometry.pixel, y * geometry.pixel, strict=True)):
        distance = right * direction.cos() + down * direction.sin()
        fan = torch.asin(distance / geometry.scanner.source_isocentre_mm)
        sector = sector_of(direction.numpy())
        expected = np.bincount(sector, variance(direction + fan, fan).numpy()) / np.bincount(sector)
        np.testing.assert_allclose(sectors[number], expected, rtol=0.006)
