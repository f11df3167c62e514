import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.lowdose.geometry import Fan, FanGeometry
from data_prep.lowdose.gridding import GriddedBackprojector
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.projector import Backprojector, CoarseProjector
from data_prep.settings import GeometrySettings, LowDoseSettings

SIDE, PIXEL, WATER = 256, 1.4, 0.0192
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def geometry() -> FanGeometry:
    return FanGeometry(GeometrySettings(), SIDE, PIXEL)


def disc_integrals(geometry: FanGeometry, x: float, y: float, radius: float) -> torch.Tensor:
    """Exact lengths (mm) of all rays in a disc, (views, channels): the closed form of a chord."""
    views = geometry.scanner.views
    angle = torch.arange(views, dtype=torch.float64)[:, None] * (2 * math.pi / views)
    source = geometry.scanner.source_isocentre_mm * torch.stack([angle.sin(), -angle.cos()])
    ray = angle - geometry.fan_angles()  # towards the isocentre at fan angle 0
    direction = torch.stack([-ray.sin(), ray.cos()])
    offset = torch.tensor([x, y], dtype=torch.float64)[:, None, None] - source
    distance = offset[0] * direction[1] - offset[1] * direction[0]
    return 2 * (radius**2 - distance**2).clamp(min=0).sqrt()


def disc(x: float, y: float, radius: float, finer: int = 8) -> torch.Tensor:
    axis = (np.arange(SIDE * finer) + 0.5) / finer - SIDE / 2
    inside = ((axis[None] * PIXEL - x) ** 2 + (axis[:, None] * PIXEL - y) ** 2 <= radius**2).astype(np.float32)
    return torch.from_numpy(inside.reshape(SIDE, finer, SIDE, finer).mean((1, 3)))


SCANNERS = st.builds(
    GeometrySettings,
    source_isocentre_mm=st.floats(400, 700),
    source_detector_mm=st.floats(900, 1200),
    channels=st.integers(50, 250).map(lambda quarter: 4 * quarter),
    channel_arc_mm=st.floats(0.5, 2.0),
    channel_offset=st.floats(-2, 2),
)


@given(scanner=SCANNERS)
def test_fan_angles_and_channel_positions_are_inverse_on_any_scanner(scanner: GeometrySettings) -> None:
    fan, channels = Fan(scanner), torch.arange(scanner.channels, dtype=torch.float64)
    torch.testing.assert_close(fan.channel_position(fan.fan_angles()), channels)
    torch.testing.assert_close(fan.channel_position(fan.fan_angles(4)), channels.reshape(-1, 4).mean(1))
    ends = fan.channel_position(torch.tensor([-fan.half_width, fan.half_width], dtype=torch.float64))
    assert ends.min() >= 1
    assert ends.max() <= scanner.channels - 2


def test_a_fan_that_is_no_scanners_is_refused() -> None:
    with pytest.raises(ValueError, match="a fan of 198 degrees, wanted below 150"):
        GeometrySettings(channels=2916)
    with pytest.raises(ValueError, match="must be more than source_isocentre_mm"):
        GeometrySettings(source_detector_mm=500)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(place=(0, 0), radius=150)
@given(place=st.tuples(st.floats(-60, 60), st.floats(-60, 60)), radius=st.floats(40, 85))
def test_line_integrals_of_any_disc_are_its_chords(
    geometry: FanGeometry, place: tuple[float, float], radius: float
) -> None:
    project = CoarseProjector(geometry, CPU)
    found = project.interpolate(project(WATER * disc(*place, radius)[None]))[0]
    exact = WATER * disc_integrals(geometry, *place, radius)
    assert found.shape == exact.shape
    hit = exact > 0
    noise_error = torch.expm1((found - exact)[hit] / 2)  # of its standard deviation, which goes with exp(p / 2)
    assert float(noise_error.square().mean().sqrt()) < 0.0165
    assert abs(float(noise_error.mean())) < 0.005


def test_the_interpolated_deviation_of_the_noise_is_that_of_all_rays(geometry: FanGeometry) -> None:
    """Noise of a water disc: its standard deviation is right within 0.5 %."""
    made = LowDoseSimulator(LowDoseSettings(), SIDE, PIXEL)
    counts = made.incident * torch.exp(-made.project(WATER * disc(60, -30, 100)[None]))
    found = made.project.interpolate(made.variance(counts).sqrt())[0].double()
    exact = made.variance(made.settings.photons * torch.exp(-WATER * disc_integrals(geometry, 60, -30, 100))).sqrt()
    assert float((found.square().mean() / exact.square().mean()).sqrt()) == pytest.approx(1, rel=0.005)


@pytest.mark.parametrize("reconstruct", [Backprojector, GriddedBackprojector])
@pytest.mark.parametrize("window", ["ramp", "hann"])
@pytest.mark.parametrize(("x", "y", "radius"), [(0, 0, 120), (60, -30, 50)])
def test_backprojection_of_exact_chords_gives_the_disc(
    geometry: FanGeometry, x: float, y: float, radius: float, window: str, reconstruct: type[Backprojector]
) -> None:
    sinogram = (WATER * disc_integrals(geometry, x, y, radius)).float()[None]
    image = reconstruct(geometry, window, 1.0, CPU)(sinogram)[0] / WATER
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    distance = ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2).sqrt()
    centre = (axis[None] ** 2 + axis[:, None] ** 2).sqrt() < 160
    inside, outside = distance < radius - 5, (distance > radius + 8) & centre
    assert abs(float(image[inside].mean()) - 1) < 0.002  # 2 HU of water
    assert float((image[inside] - 1).std()) < 0.01
    assert abs(float(image[outside].mean())) < 0.002


def test_both_ways_give_nearly_the_same_noise() -> None:
    """On pixels as fine as the detector's channels, which both reconstruct without aliasing."""
    fine = FanGeometry(GeometrySettings(), 256, 0.7)
    noise = torch.randn(8, fine.scanner.views, fine.scanner.channels, generator=torch.Generator().manual_seed(0))
    images = [way(fine, "hann", 1.0, CPU)(noise) for way in (Backprojector, GriddedBackprojector)]
    assert torch.equal(images[0] == 0, images[1] == 0)  # beyond the disc
    exact, gridded = (image[:, 64:192, 64:192].flatten() for image in images)
    assert 1.0 < float(gridded.std() / exact.std()) < 1.15
    assert float(torch.corrcoef(torch.stack([exact, gridded]))[0, 1]) > 0.97


def test_a_quarter_turn_of_the_image_turns_the_sinogram(geometry: FanGeometry) -> None:
    project = CoarseProjector(geometry, CPU)
    image = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    turned = project(torch.rot90(image, 1, (1, 2)))
    torch.testing.assert_close(turned, project(image).roll(-project.views, 1), rtol=1e-4, atol=1e-3)
