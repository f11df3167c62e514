"""An equiangular fan-beam scan of a square image, in the plane.

The source turns about the image's centre; at angle b it stands at R (sin b, -cos b), with x to the
right and y down. A quarter turn of the source equals a quarter turn of the image, so tables are
needed for the first quarter of the views only (view = quarter * views / 4 + view within it).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.settings import GeometrySettings


@dataclass(frozen=True)
class Fan:
    """The scanner's rays."""

    scanner: GeometrySettings

    @property
    def quarter_views(self) -> int:
        """Views in a quarter turn."""
        return self.scanner.views // 4

    @property
    def channel_angle(self) -> float:
        """Angle between neighbouring channels, radians."""
        return self.scanner.channel_arc_mm / self.scanner.source_detector_mm

    @property
    def half_width(self) -> float:
        """Fan angle (radians) that both sides of the detector see, with two channels to spare for interpolation."""
        return ((self.scanner.channels - 1) / 2 - 2 - abs(self.scanner.channel_offset)) * self.channel_angle

    def view_angles(self, step: int = 1) -> Tensor:
        """Source angles (radians) in the middle of every ``step`` views of the first quarter turn."""
        return middles(self.quarter_views, step) * (2 * math.pi / self.scanner.views)

    def channel_position(self, angle: Tensor) -> Tensor:
        """Channel index (fractional) that a fan angle (radians) falls on."""
        return angle / self.channel_angle + (self.scanner.channels - 1) / 2 - self.scanner.channel_offset

    def fan_angles(self, step: int = 1) -> Tensor:
        """Fan angles (radians) in the middle of every ``step`` channels."""
        channels = middles(self.scanner.channels, step)
        return (channels - (self.scanner.channels - 1) / 2 + self.scanner.channel_offset) * self.channel_angle


@dataclass(frozen=True)
class FanGeometry(Fan):
    """Scanner and image grid. ``side``: pixels; ``pixel``: mm."""

    side: int
    pixel: float

    @property
    def radius(self) -> float:
        """Radius in pixels of the disc that is both in the image and seen from every view."""
        seen = self.scanner.source_isocentre_mm * math.sin(self.half_width) / self.pixel
        return min(self.side / 2 - 1, seen)

    def places(self) -> tuple[Tensor, Tensor]:
        """Place x, y (mm) of every pixel, both (side, side)."""
        axis = (torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2) * self.pixel
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return x, y

    def disc(self) -> Tensor:
        """Whether a pixel lies within the radius, (side, side); beyond it nothing is reconstructed."""
        return torch.hypot(*self.places()) <= self.radius * self.pixel


def middles(count: int, step: int) -> Tensor:
    """Index in the middle of every ``step`` of ``count`` views or channels; a half number if ``step`` is even."""
    return torch.arange(0, count, step, dtype=torch.float64) + (step - 1) / 2
