"""Fan-beam forward projection and filtered backprojection as sparse tables in torch.

Both are linear maps, stored as rows of (index, weight) and applied by ``embedding_bag`` to many
slices and four quarter turns at once. Images are (side, side, batch); sinograms are
(quarter views, channels, 4, batch). Method: Joseph 1982 (forward); Kak and Slaney 1988, section
3.4.1 (equiangular filtered backprojection).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.lowdose.geometry import FanGeometry

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Table:
    """A sparse matrix: row r sums ``weights * input[indices]`` from ``starts[r]`` to ``starts[r + 1]``."""

    indices: Tensor
    weights: Tensor
    starts: Tensor

    def __call__(self, columns: Tensor) -> Tensor:
        """Apply to (inputs, columns), giving (rows, columns)."""
        return F.embedding_bag(self.indices, columns, self.starts, mode="sum", per_sample_weights=self.weights)

    def to(self, device: torch.device) -> "Table":
        """The same table on another device."""
        return Table(self.indices.to(device), self.weights.to(device), self.starts.to(device))


class CoarseProjector:
    """Line integrals on every ``VIEW_STEP``-th view and ``CHANNEL_STEP``-th channel, interpolated.

    They only set the variance of the noise, and line integrals are smooth: see docs/decisions.md.
    """

    VIEW_STEP = 8
    CHANNEL_STEP = 4

    def __init__(self, geometry: FanGeometry, device: torch.device) -> None:
        self.geometry = geometry
        channels = torch.arange(0, geometry.scanner.channels, self.CHANNEL_STEP, dtype=torch.float64)
        tangents = torch.tan(geometry.fan_angles(channels + (self.CHANNEL_STEP - 1) / 2))
        self.views, self.channels = len(geometry.view_angles(self.VIEW_STEP)), len(channels)
        self.table = _joseph_table(geometry, geometry.view_angles(self.VIEW_STEP), tangents).to(device)

    def __call__(self, attenuation: Tensor) -> Tensor:
        """Line integrals (no unit) of attenuation (1/mm), (side, side, batch), at all views and channels."""
        batch = attenuation.shape[-1]
        turned = torch.stack([torch.rot90(attenuation, k, (0, 1)) for k in range(4)], 2)
        coarse = self.table(turned.reshape(-1, 4 * batch)).reshape(self.views, self.channels, 4, batch)
        return self._interpolate(coarse)

    def _interpolate(self, coarse: Tensor) -> Tensor:
        batch, scanner = coarse.shape[-1], self.geometry.scanner
        turn = coarse.permute(3, 2, 0, 1).reshape(batch, 1, 4 * self.views, self.channels)
        turn = torch.cat([turn, turn[:, :, :1]], 2)  # the first view again: a full turn
        turn = F.interpolate(turn, (scanner.views + 1, self.channels), mode="bilinear", align_corners=True)
        turn = F.interpolate(turn, (scanner.views + 1, scanner.channels), mode="bilinear", align_corners=False)
        full = turn[:, 0, :-1].reshape(batch, 4, self.geometry.quarter_views, scanner.channels)
        return full.permute(2, 3, 1, 0)


def _joseph_table(geometry: FanGeometry, angles: Tensor, tangents: Tensor) -> Table:
    parts = [_joseph_view(geometry, float(angle), tangents) for angle in angles]
    lengths = torch.cat([counts for _, _, counts in parts])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
    return Table(torch.cat([i for i, _, _ in parts]), torch.cat([w for _, w, _ in parts]), starts.int())


def _joseph_view(geometry: FanGeometry, angle: float, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, weights and their count per ray: each ray steps along its steeper axis, pixel by pixel."""
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
    seen = (steps - centre) ** 2 + (across - centre) ** 2 <= geometry.radius**2
    seen &= (lower >= 0) & (lower < side - 1)
    share = across - lower
    low, step = lower.long(), torch.arange(side).expand_as(across)
    first = torch.where(steps_x[:, None], low * side + step, step * side + low)
    second = first + torch.where(steps_x, side, 1)[:, None]
    length = geometry.pixel * torch.hypot(torch.ones_like(slope), slope)[:, None, None]
    weights = torch.stack([1 - share, share], -1) * length
    return torch.stack([first, second], -1)[seen].reshape(-1).int(), weights[seen].reshape(-1).float(), 2 * seen.sum(1)


class Backprojector:
    """Filtered backprojection of a full sinogram: exact equiangular fan beam."""

    def __init__(self, geometry: FanGeometry, window: str, cutoff: float, device: torch.device) -> None:
        self.geometry = geometry
        self.pixels, table = _backprojection_table(geometry)
        self.table = table.to(device)
        self.response = _filter_response(geometry, window, cutoff).to(device)
        channels = torch.arange(geometry.scanner.channels, dtype=torch.float64)
        cosines = torch.cos(geometry.fan_angles(channels))
        self.cosines = (geometry.scanner.source_isocentre_mm * cosines).float().to(device)

    def __call__(self, sinogram: Tensor) -> Tensor:
        """Reconstruct (quarter views, channels, 4, batch) to 1/mm, (side, side, batch)."""
        filtered = self._filter(sinogram)
        side, batch = self.geometry.side, sinogram.shape[-1]
        rows = self.table(filtered.reshape(-1, 4 * batch))
        image = torch.zeros(side * side, 4 * batch, device=rows.device)
        image[self.pixels.to(rows.device)] = rows
        quarters = image.reshape(side, side, 4, batch)
        turned = sum(torch.rot90(quarters[:, :, k], -k, (0, 1)) for k in range(4))
        assert isinstance(turned, Tensor)
        return turned * (2 * math.pi / self.geometry.scanner.views)

    def _filter(self, sinogram: Tensor) -> Tensor:
        views, channels, _, batch = sinogram.shape
        rows = (sinogram * self.cosines[:, None, None]).reshape(views, channels, 4 * batch).transpose(1, 2)
        length = 2 * (len(self.response) - 1)
        spectrum = torch.fft.rfft(rows, n=length) * self.response
        filtered: Tensor = torch.fft.irfft(spectrum, n=length)[..., :channels]
        return filtered.transpose(1, 2).contiguous()


def _backprojection_table(geometry: FanGeometry) -> tuple[Tensor, Table]:
    """Pixels of the disc, and for each the two channels it falls on in every view, weighted 1 / distance^2."""
    centre, views = (geometry.side - 1) / 2, geometry.quarter_views
    axis = torch.arange(geometry.side, dtype=torch.float64) - centre
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = (x**2 + y**2 <= geometry.radius**2).reshape(-1).nonzero()[:, 0]
    place = torch.stack([x.reshape(-1)[pixels], y.reshape(-1)[pixels]], 1) * geometry.pixel
    indices = torch.empty(len(pixels), views, 2, dtype=torch.int32)
    weights = torch.empty(len(pixels), views, 2, dtype=torch.float32)
    for start in range(0, len(pixels), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        indices[rows], weights[rows] = _backprojection_rows(geometry, place[rows])
    starts = torch.arange(len(pixels), dtype=torch.int32) * (2 * views)
    return pixels, Table(indices.reshape(-1), weights.reshape(-1), starts)


def _backprojection_rows(geometry: FanGeometry, place: Tensor) -> tuple[Tensor, Tensor]:
    angles = geometry.view_angles()
    x, y = place[:, :1], place[:, 1:]
    depth = geometry.scanner.source_isocentre_mm - x * angles.sin() + y * angles.cos()
    across = x * angles.cos() + y * angles.sin()
    channel = geometry.channel_position(torch.atan2(across, depth))
    lower = channel.floor().clamp(0, geometry.scanner.channels - 2)
    share = (channel - lower).clamp(0, 1)
    weight = 1 / (depth**2 + across**2)
    index = torch.arange(len(angles)) * geometry.scanner.channels + lower.long()
    return torch.stack([index, index + 1], -1).int(), torch.stack([weight * (1 - share), weight * share], -1).float()


def _filter_response(geometry: FanGeometry, window: str, cutoff: float) -> Tensor:
    """Frequency response of the equiangular ramp times a window, for padded rows of channels."""
    angle, length = geometry.channel_angle, 2 ** math.ceil(math.log2(2 * geometry.scanner.channels))
    return _response(torch.sin(_places(length) * angle) / angle, angle, window, cutoff) / 2


def ramp_response(samples: int, spacing: float, window: str, cutoff: float) -> Tensor:
    """Frequency response of the ramp for parallel rays ``spacing`` mm apart times a window."""
    return _response(_places(samples), spacing, window, cutoff)


def _places(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64) - length // 2


def _response(place: Tensor, spacing: float, window: str, cutoff: float) -> Tensor:
    """The band-limited ramp is sampled in space, at ``place`` samples from its centre, to keep its mean right."""
    odd = _places(len(place)) % 2 != 0
    kernel = torch.zeros(len(place), dtype=torch.float64)
    kernel[len(place) // 2] = 1 / (4 * spacing**2)
    kernel[odd] = -1 / (math.pi * place[odd] * spacing) ** 2
    ramp: Tensor = torch.fft.rfft(torch.fft.ifftshift(kernel)).real * spacing
    frequency = torch.arange(len(ramp), dtype=torch.float64) / (len(ramp) - 1) / cutoff
    return (ramp * torch.where(frequency <= 1, _window(window, frequency), 0.0)).float()


def _window(name: str, frequency: Tensor) -> Tensor:
    """Apodisation at frequencies from 0 to 1."""
    if name == "hann":
        return (1 + torch.cos(math.pi * frequency)) / 2
    if name == "cosine":
        return torch.cos(math.pi * frequency / 2)
    if name == "shepp-logan":
        return torch.sinc(frequency / 2)
    assert name == "ramp"
    return torch.ones_like(frequency)
