"""Filtered backprojection of parallel rays by gridding in Fourier space.

The spectrum of a projection is a line through the origin of the image's spectrum (central slice theorem). It is
filtered and spread onto an oversampled Cartesian grid with a Kaiser-Bessel kernel (Jackson et al. 1991,
doi:10.1109/42.97598; shape by Beatty et al. 2005, doi:10.1109/TMI.2005.848376).

Noise that is white in a fan's rays is white in the parallel rays to which they are sorted. So it is drawn in parallel
rays, as dense as the image's own band asks for, and nothing is interpolated.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from data_prep.lowdose.apodisation import Apodisation
from data_prep.lowdose.blocks import Power
from data_prep.lowdose.geometry import FanGeometry, middles
from data_prep.lowdose.projector import CHANNEL_STEP, VIEW_STEP, ramp_power, ramp_response
from data_prep.lowdose.sparse import GEOMETRIES, Table, cached

OVERSAMPLING = 1.5
KERNEL = 5
REACH = KERNEL // 2
SHAPE = math.pi * math.sqrt((KERNEL / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)
_ANGLES_AT_ONCE = 32  # they fit into a core's cache, which is twice as fast


@dataclass(frozen=True)
class ParallelRays:
    """Parallel rays over half a turn, through all of an image and as dense as its diagonal's pixels."""

    fan: FanGeometry

    @property
    def angles(self) -> int:
        """Number of directions in half a turn."""
        return self.fan.scanner.views // 2

    @property
    def spacing(self) -> float:
        """Distance between neighbouring rays, mm."""
        return self.fan.pixel * math.sqrt(0.5)

    @property
    def count(self) -> int:
        """Number of rays of a direction, a multiple of ``CHANNEL_STEP``; a ray lies on either side of the centre."""
        return CHANNEL_STEP * math.ceil(2 * (self.fan.side + KERNEL) / CHANNEL_STEP)

    @property
    def samples(self) -> int:
        """Length of the Fourier transform of a projection."""
        return int(next_fast_len(self.count, real=True))

    @property
    def grid(self) -> int:
        """Cells along an edge of the Cartesian grid."""
        return 2 * math.ceil(OVERSAMPLING * self.fan.side / 2)

    @property
    def step(self) -> float:
        """Distance of radial frequencies, in cells of the grid."""
        return self.grid * self.fan.pixel / (self.samples * self.spacing)


class GriddedBackprojector:
    """Filtered backprojection of parallel rays, (angles, rays)."""

    def __init__(self, geometry: FanGeometry, apodisation: Apodisation, device: torch.device) -> None:
        rays = ParallelRays(geometry)
        self.geometry, self.apodisation = geometry, apodisation
        self.angles, self.samples, self.grid = rays.angles, rays.samples, rays.grid
        self.shape = rays.angles, rays.count
        self.first = self.grid // 2 - geometry.side // 2
        self.last = self.first + geometry.side
        response = _response(rays, apodisation)
        sort, spread, centring, roll_off = _tables_of(rays, len(response))
        self.sort, self.spread, self.roll_off = sort.to(device), spread.to(device), roll_off.to(device)
        self.response = (response * centring).to(device)

    def deviation(self, variance: Tensor) -> Tensor:
        """Return the SD of noise in the rays, (batch, angles, rays).

        ``variance``: in the rays of the fan, (batch, coarse views, coarse channels).
        """
        angles, count = self.shape
        sorted_rays = self.sort(variance.flatten(1).T.contiguous()).T.sqrt()
        coarse = sorted_rays.reshape(1, len(variance), angles // VIEW_STEP + 2, -1)
        rays = F.interpolate(coarse, (coarse.shape[2], count + 2 * CHANNEL_STEP), mode="bilinear")
        rays = rays[0, :, :, CHANNEL_STEP:-CHANNEL_STEP]
        fine = torch.empty(len(variance), angles // VIEW_STEP, VIEW_STEP, count, device=rays.device)
        for number in range(VIEW_STEP):
            position = (number + 0.5) / VIEW_STEP + 0.5
            below, share = int(position), position % 1
            lower, upper = (rays[:, start : start + angles // VIEW_STEP] for start in (below, below + 1))
            torch.lerp(lower, upper, share, out=fine[:, :, number])
        return fine.reshape(-1, angles, count)

    def __call__(self, rays: Tensor) -> Tensor:
        """Reconstruct (batch, angles, rays) to 1/mm, (batch, side, side)."""
        spectra = self._filtered_spectra(rays)
        cells = self.spread(torch.view_as_real(spectra).reshape(-1, 2 * len(rays)))
        planes = torch.view_as_complex(cells.reshape(-1, self.grid, len(rays), 2))
        return torch.stack([self._image(plane) for plane in planes.unbind(-1)])

    def noise_power(self, x: Power, y: Power) -> Power:
        """Return the image's power spectrum for noise of variance 1 in the fan, at frequencies along x and y (1/mm).

        The image's band is a square.
        """
        is_inside = np.maximum(np.abs(x), np.abs(y)) <= 0.5 / self.geometry.pixel
        return ramp_power(self.geometry, self.apodisation, np.hypot(x, y)) * is_inside

    def _filtered_spectra(self, rays: Tensor) -> Tensor:
        """Return lines through the origins of the images' spectra, (angles, radial frequencies, batch)."""
        count = self.response.shape[1]
        parts = zip(rays.split(_ANGLES_AT_ONCE, 1), self.response.split(_ANGLES_AT_ONCE), strict=True)
        spectra = [torch.fft.rfft(part, n=self.samples)[..., :count] * factor for part, factor in parts]
        return torch.cat([part.permute(1, 2, 0) for part in spectra])

    def _image(self, plane: Tensor) -> Tensor:
        """Return the image (side, side) from the upper half of its spectrum, (vertical, horizontal frequencies).

        The first ``REACH`` rows hold samples spread below the half plane: their mirror image is added above.
        """
        mirror = plane[: REACH + 1].flip(0, 1).roll(1, 1).conj()
        plane = plane[REACH:].contiguous()
        plane[: REACH + 1] += mirror
        columns = torch.fft.ifft(plane)[:, self.first : self.last]
        image: Tensor = torch.fft.irfft(columns, n=self.grid, dim=0)[self.first : self.last] * self.roll_off
        return image


@lru_cache(GEOMETRIES)
def _tables_of(rays: ParallelRays, frequencies: int) -> tuple[Table, Table, Tensor, Tensor]:
    """Return what all simulators of a geometry share: both tables, the phases of centring, and the roll-off."""
    geometry = rays.fan
    spread = cached(_gridding_table, rays.angles, frequencies, rays.step, rays.grid)
    scale = math.pi * rays.grid**2 / (rays.angles * rays.samples)
    roll_off = scale * geometry.disc() * _roll_off(geometry.side, rays.grid)
    return cached(_sorting_table, rays), spread, _centring(rays, frequencies), roll_off


def _response(rays: ParallelRays, apodisation: Apodisation) -> Tensor:
    """Return the filter at radial frequencies, up to the corner of the image's band or where the filter ends."""
    count = min(rays.samples // 2, math.ceil(math.sqrt(0.5) * rays.grid / rays.step)) + 1
    frequency = torch.arange(count, dtype=torch.float64) / (rays.samples * rays.spacing)
    response = (ramp_response(rays.samples, rays.spacing)[:count] * apodisation(frequency)).float()
    response[0] /= 2  # a half turn of lines holds every other frequency once, the origin twice
    return response


def _sorting_table(rays: ParallelRays) -> Table:
    """Return the table whose rows are the variances of every ``VIEW_STEP``-th direction and ``CHANNEL_STEP``-th ray.

    Beyond either end there is one direction and ray more, for interpolation. A parallel ray is the mean of two
    opposite rays of the fan. It stands for as many of them as lie in its width; where the fan has none, there is no
    noise.
    """
    fan, scanner = rays.fan, rays.fan.scanner
    direction = middles(rays.angles + 2 * VIEW_STEP, VIEW_STEP) - VIEW_STEP
    number = middles(rays.count + 2 * CHANNEL_STEP, CHANNEL_STEP) - CHANNEL_STEP - (rays.count - 1) / 2
    distance = (number * rays.spacing).clamp(-fan.reach, fan.reach)
    angle = torch.asin(distance / scanner.source_isocentre_mm)
    share = fan.ray_spacing * angle.cos() / (4 * rays.spacing) * ((number * rays.spacing).abs() <= fan.reach)
    indices, weights = [], []
    for sign, start in ((1, 0), (-1, rays.angles)):
        view = (
            direction[:, None] + sign * angle * scanner.views / (2 * math.pi) + start - 0.5 * (VIEW_STEP - 1)
        ) / VIEW_STEP
        channel = (fan.channel_position(sign * angle) - (CHANNEL_STEP - 1) / 2) / CHANNEL_STEP
        index, weight = _bilinear(view, channel, scanner.views // VIEW_STEP, scanner.channels // CHANNEL_STEP)
        indices.append(index)
        weights.append(weight * share[:, None])
    terms = torch.cat(indices, -1)
    return Table.of(terms, torch.cat(weights, -1), torch.full((terms[..., 0].numel(),), terms.shape[-1]))


def _bilinear(view: Tensor, channel: Tensor, views: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return indices and weights of the four samples about each position, (directions, rays, 4); views are periodic."""
    channel = channel.clamp(0, channels - 1)
    low_view, low_channel = view.floor(), channel.floor().clamp(max=channels - 2)
    indices, weights = [], []
    for i in (0, 1):
        for j in (0, 1):
            indices.append((low_view + i) % views * channels + low_channel + j)
            weights.append((1 - (view - low_view - i).abs()) * (1 - (channel - low_channel - j).abs()))
    return torch.stack(indices, -1), torch.stack(weights, -1)


def _gridding_table(angles: int, frequencies: int, step: float, grid: int) -> Table:
    """Return the table whose rows are the cells of the upper half plane and ``REACH`` rows below.

    Each cell sums the samples about it that lie in the image's band, a square. The signs of the weights alternate
    from cell to cell, which moves the centre of the image to the middle of the grid.
    """
    angle = torch.arange(angles, dtype=torch.float64)[:, None] * (math.pi / angles)
    radius = torch.arange(frequencies, dtype=torch.float64) * step
    x, y = ((radius * f(angle)).reshape(-1) for f in (torch.cos, torch.sin))
    sample = (torch.maximum(x.abs(), y) <= grid / 2).nonzero()[:, 0]
    x, y = x[sample, None], y[sample, None]
    columns, rows = ((axis - KERNEL / 2).ceil() + torch.arange(KERNEL) for axis in (x, y))
    heights = _kaiser_bessel(rows - y)[:, :, None] * _kaiser_bessel(columns - x)[:, None]
    signs = 1 - 2 * ((rows[:, :, None] + columns[:, None]) % 2)
    cells = ((rows[:, :, None] + REACH) * grid + columns[:, None] % grid).long().reshape(-1)
    order = cells.argsort(stable=True)
    counts = cells.bincount(minlength=(int(rows.max()) + REACH + 1) * grid)
    return Table.of(sample[order // KERNEL**2], (heights * signs).reshape(-1)[order], counts)


def _kaiser_bessel(distance: Tensor) -> Tensor:
    inside = (1 - (2 * distance / KERNEL) ** 2).clamp(min=0)
    height: Tensor = torch.special.i0(SHAPE * inside.sqrt())
    return height * (distance.abs() <= KERNEL / 2)


def _centring(rays: ParallelRays, frequencies: int) -> Tensor:
    """Return phases that move the origin of a line to the centre of its rays, and that of the image to its centre."""
    angle = torch.arange(rays.angles, dtype=torch.float64)[:, None] * (math.pi / rays.angles)
    side = rays.fan.side
    half_pixel = side // 2 - (side - 1) / 2
    turns = (rays.count - 1) / 2 / rays.samples + half_pixel * rays.step / rays.grid * (angle.cos() + angle.sin())
    phase = 2 * math.pi * turns * torch.arange(frequencies)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)


def _roll_off(side: int, grid: int) -> Tensor:
    """Return the inverse of the kernel's Fourier transform at the pixels."""
    position = (torch.arange(side, dtype=torch.float64) - side // 2) / grid
    root = (SHAPE**2 - (math.pi * KERNEL * position) ** 2).sqrt()
    transform = KERNEL * torch.sinh(root) / root
    return (1 / (transform[:, None] * transform)).float()
