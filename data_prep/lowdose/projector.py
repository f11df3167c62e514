"""Fan-beam forward projection and filtered backprojection as sparse tables in torch.

Both are linear maps, stored as rows of (index, weight). ``embedding_bag`` applies them to many slices and to four
quarter turns at once. Images are (side, side, batch); sinograms are
(quarter views, channels, 4, batch). Method: Joseph 1982 (forward); Kak and Slaney 1988, section
3.4.1 (equiangular filtered backprojection).
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.lowdose.apodisation import Apodisation
from data_prep.lowdose.blocks import Power
from data_prep.lowdose.geometry import Fan, FanGeometry
from data_prep.lowdose.sparse import GEOMETRIES, Table, cached

VIEW_STEP, CHANNEL_STEP, PIXEL_STEP = 8, 4, 2
"""Of the coarse projection."""
_ROWS_AT_ONCE = 8192


class CoarseProjector:
    """Line integrals in the middle of every ``VIEW_STEP`` views and ``CHANNEL_STEP`` channels.

    Pixels are averaged ``PIXEL_STEP`` x ``PIXEL_STEP``. Coarse is enough: the line integrals are smooth and only set
    the variance of the noise (docs/decisions/low-dose.md).
    """

    def __init__(self, geometry: FanGeometry, device: torch.device) -> None:
        self.geometry = geometry
        self.views = geometry.quarter_views // VIEW_STEP
        self.table = _coarse_table(geometry).to(device)

    def __call__(self, attenuation: Tensor) -> Tensor:
        """Project attenuation (1/mm; batch, side, side) to line integrals (batch, coarse views, coarse channels)."""
        batch = len(attenuation)
        coarse = F.avg_pool2d(attenuation, PIXEL_STEP)
        turned = torch.stack([torch.rot90(coarse, k, (1, 2)) for k in range(4)])
        rays = self.table(turned.reshape(4 * batch, -1).T.contiguous()).reshape(self.views, -1, 4, batch)
        return rays.permute(3, 2, 0, 1).reshape(batch, 4 * self.views, -1)


@lru_cache(GEOMETRIES)
def _coarse_table(geometry: FanGeometry) -> Table:
    """Return the table of the coarse projection, which all simulators of a geometry share."""
    coarse = FanGeometry(geometry.scanner, geometry.side // PIXEL_STEP, geometry.pixel * PIXEL_STEP)
    return cached(_joseph_table, coarse, VIEW_STEP, CHANNEL_STEP)


def _joseph_table(geometry: FanGeometry, view_step: int, channel_step: int) -> Table:
    tangents = torch.tan(geometry.fan_angles(channel_step))
    parts = [_joseph_view(geometry, float(angle), tangents) for angle in geometry.view_angles(view_step)]
    indices, weights, counts = (torch.cat(part) for part in zip(*parts, strict=True))
    return Table.of(indices, weights, counts)


def _joseph_view(geometry: FanGeometry, angle: float, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices, weights and their count per ray; each ray steps along its steeper axis, pixel by pixel."""
    sine, cosine, side, centre = math.sin(angle), math.cos(angle), geometry.side, (geometry.side - 1) / 2
    distance = geometry.scanner.source_isocentre_mm / geometry.pixel
    source_x, source_y = distance * sine, -distance * cosine
    along_x, along_y = -sine + tangents * cosine, cosine + tangents * sine
    steps_x = along_x.abs() >= along_y.abs()
    slope = torch.where(steps_x, along_y / along_x, along_x / along_y)
    origin = torch.where(steps_x, source_y - slope * source_x, source_x - slope * source_y)
    steps = torch.arange(side, dtype=torch.float64)
    across = slope[:, None] * (steps - centre) + origin[:, None] + centre
    lower = across.floor()
    hits = (steps - centre) ** 2 + (across - centre) ** 2 <= geometry.radius**2
    hits &= (lower >= 0) & (lower < side - 1)
    share = across - lower
    low, step = lower.long(), torch.arange(side).expand_as(across)
    first = torch.where(steps_x[:, None], low * side + step, step * side + low)
    second = first + torch.where(steps_x, side, 1)[:, None]
    length = geometry.pixel * torch.hypot(torch.ones_like(slope), slope)[:, None, None]
    weights = torch.stack([1 - share, share], -1) * length
    indices = torch.stack([first, second], -1)[hits]
    return indices.reshape(-1).int(), weights[hits].reshape(-1).float(), 2 * hits.sum(1)


class Backprojector:
    """Exact filtered backprojection of an equiangular fan-beam sinogram."""

    def __init__(self, geometry: FanGeometry, apodisation: Apodisation, device: torch.device) -> None:
        self.geometry, self.apodisation = geometry, apodisation
        self.shape = geometry.scanner.views, geometry.scanner.channels
        self.table = cached(_backprojection_table, geometry).to(device)
        self.response = _filter_response(geometry, apodisation).to(device)
        self.cosines = (geometry.scanner.source_isocentre_mm * torch.cos(geometry.fan_angles())).float().to(device)

    def deviation(self, variance: Tensor) -> Tensor:
        """Return the SD of noise in all rays, (batch, views, channels), from coarse views and channels."""
        coarse, (views, channels) = variance.sqrt(), self.shape
        turn = torch.cat([coarse[:, -1:], coarse, coarse[:, :1]], 1)  # views are periodic
        fine = F.interpolate(turn[None], (views + 2 * VIEW_STEP, channels), mode="bilinear")
        return fine[0, :, VIEW_STEP:-VIEW_STEP]

    def __call__(self, sinogram: Tensor) -> Tensor:
        """Reconstruct (batch, views, channels) to 1/mm, (batch, side, side)."""
        filtered = torch.stack([self._filter(turn) for turn in sinogram])
        batch, side = len(sinogram), self.geometry.side
        columns = filtered.reshape(4 * batch, -1).T.contiguous()  # a quarter turn of a slice is one column
        quarters = self.table(columns).T.reshape(batch, 4, side, side)
        image = sum(torch.rot90(quarters[:, k], -k, (1, 2)) for k in range(4))
        assert isinstance(image, Tensor)
        return image * (2 * math.pi / self.geometry.scanner.views)

    def noise_power(self, x: Power, y: Power) -> Power:
        """Return the image's power spectrum for noise of variance 1 in the fan, at frequencies along x and y (1/mm).

        Linear interpolation between channels takes some of it away, and repeats it above their Nyquist frequency.
        """
        spacing, frequency = self.geometry.ray_spacing, np.hypot(x, y)
        folded = np.abs(frequency - np.rint(frequency * spacing) / spacing)
        interpolation = folded / frequency * np.sinc(frequency * spacing) ** 4
        return ramp_power(self.geometry, self.apodisation, folded) * interpolation

    def _filter(self, turn: Tensor) -> Tensor:
        length = 2 * (len(self.response) - 1)
        spectrum = torch.fft.rfft(turn * self.cosines, n=length) * self.response
        filtered: Tensor = torch.fft.irfft(spectrum, n=length)[:, : turn.shape[1]]
        return filtered


def _backprojection_table(geometry: FanGeometry) -> Table:
    """Return the table whose rows are pixels; those of the disc sum two channels of every view over distance^2."""
    inside, views = geometry.disc(), geometry.quarter_views
    positions = torch.stack([axis[inside] for axis in geometry.positions()], 1)
    indices = torch.empty(len(positions), views, 2, dtype=torch.int32)
    weights = torch.empty(len(positions), views, 2, dtype=torch.float32)
    for start in range(0, len(positions), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        indices[rows], weights[rows] = _backprojection_rows(geometry, positions[rows])
    return Table.of(indices, weights, inside.reshape(-1) * (2 * views))


def _backprojection_rows(geometry: FanGeometry, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = geometry.view_angles()
    x, y = positions[:, :1], positions[:, 1:]
    depth = geometry.scanner.source_isocentre_mm - x * angles.sin() + y * angles.cos()
    across = x * angles.cos() + y * angles.sin()
    channel = geometry.channel_position(torch.atan2(across, depth))
    lower = channel.floor()
    share = channel - lower
    weight = 1 / (depth**2 + across**2)
    index = torch.arange(len(angles)) * geometry.scanner.channels + lower.long()
    return torch.stack([index, index + 1], -1).int(), torch.stack([weight * (1 - share), weight * share], -1).float()


def _filter_response(geometry: FanGeometry, apodisation: Apodisation) -> Tensor:
    """Return the frequency response of the equiangular ramp and an apodisation, for padded rows of channels."""
    angle, length = geometry.channel_angle, 2 ** math.ceil(math.log2(2 * geometry.scanner.channels))
    ramp = _response(torch.sin(_offsets(length) * angle) / angle, angle) / 2
    return ramp * apodisation(torch.linspace(0, geometry.nyquist, len(ramp), dtype=torch.float64)).float()


def ramp_response(samples: int, spacing: float) -> Tensor:
    """Return the frequency response of the ramp for parallel rays ``spacing`` mm apart."""
    return _response(_offsets(samples), spacing)


def ramp_power(fan: Fan, apodisation: Apodisation, frequency: Power) -> Power:
    """Return the power spectrum that filtered backprojection gives to white noise of variance 1 in the rays of a fan.

    ``frequency``: cycles/mm. Times the area of the plane of frequencies it is a variance, 1/mm^2.
    """
    factor = apodisation(torch.from_numpy(frequency)).numpy()
    return np.asarray(math.pi * fan.ray_spacing / fan.scanner.views * frequency * factor**2)


def _offsets(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64) - length // 2


def _response(offsets: Tensor, spacing: float) -> Tensor:
    """Return the response of a ramp sampled in space, ``offsets`` from its centre, which keeps its mean right."""
    odd = _offsets(len(offsets)) % 2 != 0
    kernel = torch.zeros(len(offsets), dtype=torch.float64)
    kernel[len(offsets) // 2] = 1 / (4 * spacing**2)
    kernel[odd] = -1 / (math.pi * offsets[odd] * spacing) ** 2
    ramp: Tensor = torch.fft.rfft(torch.fft.ifftshift(kernel)).real * spacing
    return ramp.float()
