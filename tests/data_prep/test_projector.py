import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.lowdose.apodisation import Apodisation, window
from data_prep.lowdose.geometry import Fan, FanGeometry
from data_prep.lowdose.gridding import GriddedBackprojector, ParallelRays
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP, Backprojector, CoarseProjector
from data_prep.settings import GeometrySettings, LowDoseSettings

SIDE, PIXEL, WATER = 256, 1.4, 0.0192
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def geometry() -> FanGeometry:
    return FanGeometry(GeometrySettings(), SIDE, PIXEL)


@pytest.fixture(scope="module")
def exact(geometry: FanGeometry) -> Backprojector:
    return Backprojector(geometry, hann(geometry), CPU)


@pytest.fixture(scope="module")
def gridded(geometry: FanGeometry) -> GriddedBackprojector:
    return GriddedBackprojector(geometry, hann(geometry), CPU)


def hann(geometry: FanGeometry) -> Apodisation:
    return window("hann", geometry.nyquist)


def parallel_integrals(geometry: FanGeometry, x: float, y: float, radius: float) -> torch.Tensor:
    """Exact lengths (mm) of parallel rays in a disc, (angles, rays): the closed form of a chord."""
    angle, distance = parallel_rays(geometry)
    return chord(x * angle.cos() + y * angle.sin() - distance, radius)


def parallel_rays(geometry: FanGeometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Direction across the rays (radians; of the first half turn) and distance of each ray from the centre (mm)."""
    rays = ParallelRays(geometry)
    angle = torch.arange(rays.angles, dtype=torch.float64)[:, None] * (math.pi / rays.angles)
    return angle, (torch.arange(rays.count) - (rays.count - 1) / 2) * rays.spacing


def chord(distance: torch.Tensor, radius: float) -> torch.Tensor:
    return 2 * (radius**2 - distance**2).clamp(min=0).sqrt()


def disc_integrals(geometry: FanGeometry, x: float, y: float, radius: float) -> torch.Tensor:
    """Exact lengths (mm) of all rays in a disc, (views, channels): the closed form of a chord."""
    views = geometry.scanner.views
    angle = torch.arange(views, dtype=torch.float64)[:, None] * (2 * math.pi / views)
    source = geometry.scanner.source_isocentre_mm * torch.stack([angle.sin(), -angle.cos()])
    ray = angle - geometry.fan_angles()  # towards the isocentre at fan angle 0
    direction = torch.stack([-ray.sin(), ray.cos()])
    offset = torch.tensor([x, y], dtype=torch.float64)[:, None, None] - source
    distance = offset[0] * direction[1] - offset[1] * direction[0]
    return chord(distance, radius)


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
@example(centre=(0, 0), radius=150)
@given(centre=st.tuples(st.floats(-60, 60), st.floats(-60, 60)), radius=st.floats(40, 85))
def test_line_integrals_of_any_disc_are_its_chords(
    geometry: FanGeometry, exact: Backprojector, centre: tuple[float, float], radius: float
) -> None:
    coarse = CoarseProjector(geometry, CPU)(WATER * disc(*centre, radius)[None])
    integrals = exact.deviation(coarse.square())[0]  # it interpolates as it does deviations
    chords = WATER * disc_integrals(geometry, *centre, radius)
    assert integrals.shape == chords.shape
    hit = chords > 0
    noise_error = torch.expm1((integrals - chords)[hit] / 2)  # of its standard deviation, which goes with exp(p / 2)
    assert float(noise_error.square().mean().sqrt()) < 0.0165
    assert abs(float(noise_error.mean())) < 0.005


def test_the_interpolated_deviation_of_the_noise_is_that_of_all_rays(
    geometry: FanGeometry, exact: Backprojector
) -> None:
    """Noise of a water disc: its standard deviation is right within 0.5 %."""
    simulator, coarse = disc_and_its_variance()
    photons = simulator.model.photons * torch.exp(-WATER * disc_integrals(geometry, 60, -30, 100))
    assert rms(exact.deviation(coarse)) == pytest.approx(rms(simulator.variance(photons).sqrt()), rel=0.005)


def test_parallel_rays_have_the_variance_of_the_fans_rays_within_their_width(
    geometry: FanGeometry, gridded: GriddedBackprojector
) -> None:
    """A parallel ray shares the noise of as many as lie in its width: right within 0.5 %, ray by ray within 3 %."""
    simulator, coarse = disc_and_its_variance()
    distance = parallel_rays(geometry)[1]
    fan_angle = torch.asin((distance / geometry.scanner.source_isocentre_mm).clamp(-1, 1))
    count = 2 * ParallelRays(geometry).spacing / (geometry.ray_spacing * fan_angle.cos())
    photons = simulator.model.photons * torch.exp(-WATER * parallel_integrals(geometry, 60, -30, 100))
    expected = (simulator.variance(photons) / count).sqrt() * (distance.abs() <= geometry.reach)
    deviation = gridded.deviation(coarse)[0]
    assert rms(deviation) == pytest.approx(rms(expected), rel=0.005)
    assert rms(deviation - expected) < 0.03 * rms(expected)


def test_each_parallel_ray_has_the_variance_of_its_own_two_rays_of_the_fan(
    geometry: FanGeometry, gridded: GriddedBackprojector
) -> None:
    """Of a variance v = 2 + g cos(view) + g^2, g the fan angle over its largest: in closed form, ray by ray.

    Opposite rays of a parallel ray have the fan angles g and -g, and views that add to half a turn about it.
    """
    fan_angle, view = geometry.fan_angles(CHANNEL_STEP), geometry.view_angles(VIEW_STEP)
    views = torch.cat([view + turn * math.pi / 2 for turn in range(4)])[:, None]
    share = fan_angle / geometry.half_width
    coarse = (2 + share * views.cos() + share**2).float()[None]
    direction, distance = parallel_rays(geometry)
    seen = distance.abs() < geometry.reach - 8
    angle = torch.asin(distance[seen] / geometry.scanner.source_isocentre_mm)
    share = angle / geometry.half_width
    variance = 2 + share * direction.cos() * angle.cos() + share**2
    count = 2 * ParallelRays(geometry).spacing / (geometry.ray_spacing * angle.cos())
    torch.testing.assert_close(
        gridded.deviation(coarse)[0][:, seen].double(), (variance / count).sqrt(), rtol=0.0005, atol=0
    )


def test_views_are_periodic_in_the_deviation_of_the_fans_rays(geometry: FanGeometry, exact: Backprojector) -> None:
    view = geometry.view_angles(VIEW_STEP)
    views = torch.cat([view + turn * math.pi / 2 for turn in range(4)])[:, None]
    deviation = (2 + (views - math.pi / 4).sin()).expand(-1, geometry.scanner.channels // CHANNEL_STEP)
    all_views = torch.arange(geometry.scanner.views, dtype=torch.float64) * (2 * math.pi / geometry.scanner.views)
    expected = 2 + (all_views - math.pi / 4).sin()
    fine = exact.deviation(deviation.square().float()[None])[0].double()
    torch.testing.assert_close(fine, expected[:, None].expand_as(fine), rtol=0.001, atol=0)


@pytest.mark.parametrize("x", [0.0, 25.3])
def test_line_integrals_of_a_small_spot_are_those_of_its_profile(geometry: FanGeometry, x: float) -> None:
    """A Gaussian of 4 mm, in coarse pixels of 2.8 mm: (2 pi)^(1/2) s exp(-d^2 / 2 s^2) at the distance d of a ray."""
    axis, sigma = (torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2) * PIXEL, 4.0
    spot = torch.exp(-((axis - x) ** 2 + axis[:, None] ** 2) / 2 / sigma**2).float()
    view = geometry.view_angles(VIEW_STEP)
    views = torch.cat([view + turn * math.pi / 2 for turn in range(4)])[:, None]
    angle = geometry.fan_angles(CHANNEL_STEP)
    distance = geometry.scanner.source_isocentre_mm * angle.sin() - x * (views - angle).cos()
    expected = (2 * math.pi) ** 0.5 * sigma * torch.exp(-(distance**2) / 2 / sigma**2)
    integrals = CoarseProjector(geometry, CPU)(spot[None])[0]
    assert rms(integrals - expected) < 0.07 * rms(expected)


@pytest.mark.parametrize(
    ("name", "at_half"), [("ramp", 1), ("hann", 0.5), ("cosine", 0.5**0.5), ("shepp-logan", 8**0.5 / math.pi)]
)
def test_windows_are_those_of_their_names(name: str, at_half: float) -> None:
    factors = window(name, 0.6)(torch.tensor([0, 0.3, 0.6001, 2.0], dtype=torch.float64))
    torch.testing.assert_close(factors, torch.tensor([1, at_half, 0, 0], dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize("side", [64, 75, 85])
def test_a_disc_comes_out_at_its_place_in_images_of_any_side(side: int) -> None:
    """Its centre of mass, within a twentieth of a pixel."""
    geometry = FanGeometry(GeometrySettings(views=576), side, 2.8)
    for reconstruct in (Backprojector, GriddedBackprojector):
        sinogram = INTEGRALS[reconstruct](geometry, 20, -30, 35).float()[None]
        image = reconstruct(geometry, hann(geometry), CPU)(sinogram)[0].double()
        x, y = geometry.positions()
        near = torch.hypot(x - 20, y + 30) < 45
        mass = image[near].sum()
        assert float(mass * 2.8**2) == pytest.approx(math.pi * 35**2, rel=0.01)
        assert float((image * x)[near].sum() / mass) == pytest.approx(20, abs=0.14)
        assert float((image * y)[near].sum() / mass) == pytest.approx(-30, abs=0.14)


def disc_and_its_variance() -> tuple[LowDoseSimulator, torch.Tensor]:
    simulator = LowDoseSimulator(LowDoseSettings(), SIDE, PIXEL)
    counts = simulator.incident * torch.exp(-simulator.project(WATER * disc(60, -30, 100)[None]))
    return simulator, simulator.variance(counts)


def rms(deviation: torch.Tensor) -> float:
    return float(deviation.double().square().mean().sqrt())


INTEGRALS = {Backprojector: disc_integrals, GriddedBackprojector: parallel_integrals}


@pytest.mark.parametrize("reconstruct", [Backprojector, GriddedBackprojector])
@pytest.mark.parametrize("name", ["ramp", "hann"])
@pytest.mark.parametrize(("x", "y", "radius"), [(0, 0, 120), (60, -30, 50)])
def test_backprojection_of_exact_chords_gives_the_disc(
    geometry: FanGeometry, x: float, y: float, radius: float, name: str, reconstruct: type[Backprojector]
) -> None:
    sinogram = (WATER * INTEGRALS[reconstruct](geometry, x, y, radius)).float()[None]
    image = reconstruct(geometry, window(name, geometry.nyquist), CPU)(sinogram)[0] / WATER
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    distance = ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2).sqrt()
    centre = (axis[None] ** 2 + axis[:, None] ** 2).sqrt() < 160
    inside, outside = distance < radius - 5, (distance > radius + 8) & centre
    assert abs(float(image[inside].mean()) - 1) < 0.002  # 2 HU of water
    assert float((image[inside] - 1).std()) < 0.01
    assert abs(float(image[outside].mean())) < 0.002


def test_both_reconstructions_give_noise_of_the_same_level_and_spectrum() -> None:
    """But for what the exact one loses as it interpolates between channels: (2 + cos) / 3 of the power is left."""
    fine = FanGeometry(GeometrySettings(views=288), 128, 0.7)
    exact, gridded = (white_noise(fine, kind(fine, hann(fine), CPU)) for kind in (Backprojector, GriddedBackprojector))
    assert torch.equal(exact == 0, gridded == 0)  # beyond the disc
    powers = [radial_power(image[:, 32:96, 32:96])[1:25] for image in (exact, gridded)]
    turn = 2 * math.pi * torch.arange(1, 25) / (64 * fine.pixel) * fine.ray_spacing
    left = (2 + torch.cos(turn)) / 3
    assert float(powers[0].sum() / (powers[1] * left).sum()) == pytest.approx(1, rel=0.03)
    thirds = (powers[0] / (powers[1] * left)).reshape(6, 4).mean(1)
    torch.testing.assert_close(thirds, torch.ones(6), rtol=0, atol=0.1)


def white_noise(geometry: FanGeometry, reconstruct: Backprojector | GriddedBackprojector) -> torch.Tensor:
    """Reconstruct noise that has variance 1 in each ray of the fan."""
    coarse = torch.ones(1, geometry.scanner.views // VIEW_STEP, geometry.scanner.channels // CHANNEL_STEP)
    draws = torch.randn(24, *reconstruct.shape, generator=torch.Generator().manual_seed(0))
    return reconstruct(draws * reconstruct.deviation(coarse))


def radial_power(images: torch.Tensor) -> torch.Tensor:
    """Mean power in rings of rising frequency."""
    frequency = torch.fft.fftfreq(images.shape[-1], 1 / images.shape[-1])
    ring = torch.hypot(frequency[:, None], frequency).round().long().flatten()
    power = torch.fft.fft2(images).abs().square().mean(0).flatten()
    return torch.bincount(ring, power) / torch.bincount(ring)


def test_a_quarter_turn_of_the_image_turns_the_sinogram(geometry: FanGeometry) -> None:
    project = CoarseProjector(geometry, CPU)
    image = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    turned = project(torch.rot90(image, 1, (1, 2)))
    torch.testing.assert_close(turned, project(image).roll(-project.views, 1), rtol=1e-4, atol=1e-3)
