"""An equiangular fan-beam scan of a square image, in the plane.

The source turns about the centre of the image; at angle b it is at R (sin b, -cos b), with x to the right and y
down. A quarter turn of the source equals a quarter turn of the image. So sparse tables are needed only for the
first quarter of the views (view = quarter * views / 4 + view within the quarter).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.settings import GeometrySettings


@dataclass(frozen=True)
class Fan:
    """The rays of a scanner, without an image."""

    scanner: GeometrySettings

    @property
    def quarter_views(self) -> int:
        """Number of views in a quarter turn."""
        return self.scanner.views // 4

    @property
    def channel_angle(self) -> float:
        """Angle between neighbouring channels, radians."""
        return self.scanner.channel_arc_mm / self.scanner.source_detector_mm

    @property
    def half_width(self) -> float:
        """Largest fan angle (radians) on both sides of the detector; two channels are left for interpolation."""
        return ((self.scanner.channels - 1) / 2 - 2 - abs(self.scanner.channel_offset)) * self.channel_angle

    @property
    def ray_spacing(self) -> float:
        """Distance between neighbouring rays at the isocentre, mm."""
        return self.scanner.source_isocentre_mm * self.channel_angle

    @property
    def nyquist(self) -> float:
        """Highest frequency that the rays sample, cycles/mm at the isocentre."""
        return 1 / (2 * self.ray_spacing)

    @property
    def reach(self) -> float:
        """Radius (mm) of the disc about the isocentre that lies in every view."""
        return self.scanner.source_isocentre_mm * math.sin(self.half_width)

    def view_angles(self, step: int = 1) -> Tensor:
        """Return the source angles (radians) in the middle of every ``step`` views of the first quarter turn."""
        return middles(self.quarter_views, step) * (2 * math.pi / self.scanner.views)

    def channel_position(self, angle: Tensor) -> Tensor:
        """Return the fractional channel index at a fan angle (radians)."""
        return angle / self.channel_angle + (self.scanner.channels - 1) / 2 - self.scanner.channel_offset

    def fan_angles(self, step: int = 1) -> Tensor:
        """Return the fan angles (radians) in the middle of every ``step`` channels."""
        channels = middles(self.scanner.channels, step)
        return (channels - (self.scanner.channels - 1) / 2 + self.scanner.channel_offset) * self.channel_angle


@dataclass(frozen=True)
class FanGeometry(Fan):
    """Scanner and image grid. ``side``: pixels along an edge of the image; ``pixel``: size of a pixel, mm."""

    side: int
    pixel: float

    @property
    def radius(self) -> float:
        """Radius in pixels of the disc that lies in every view; the image's corners may reach beyond it."""
        return self.reach / self.pixel

    def positions(self) -> tuple[Tensor, Tensor]:
        """Return x and y (mm) of every pixel, each (side, side)."""
        axis = (torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2) * self.pixel
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return x, y

    def disc(self) -> Tensor:
        """Return which pixels lie within the radius, (side, side); only they are reconstructed."""
        return torch.hypot(*self.positions()) <= self.radius * self.pixel


def middles(count: int, step: int) -> Tensor:
    """Return the index in the middle of every ``step`` of ``count`` views or channels; a half for an even ``step``."""
    return torch.arange(0, count, step, dtype=torch.float64) + (step - 1) / 2
