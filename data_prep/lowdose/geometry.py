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
class FanGeometry:
    """Scanner and image grid. ``side``: pixels; ``pixel``: mm; view and channel counts as scanned."""

    scanner: GeometrySettings
    side: int
    pixel: float

    @property
    def quarter_views(self) -> int:
        """Views in a quarter turn."""
        return self.scanner.views // 4

    @property
    def channel_angle(self) -> float:
        """Angle between neighbouring channels, radians."""
        return self.scanner.channel_arc_mm / self.scanner.source_detector_mm

    @property
    def radius(self) -> float:
        """Radius in pixels of the disc that is both in the image and seen from every view."""
        widest = (self.scanner.channels / 2 - 2 - abs(self.scanner.channel_offset)) * self.channel_angle
        seen = self.scanner.source_isocentre_mm * math.sin(widest) / self.pixel
        return min(self.side / 2 - 1, seen)

    def view_angles(self, step: int = 1) -> Tensor:
        """Source angles (radians) of every ``step``-th view of the first quarter turn."""
        return torch.arange(0, self.quarter_views, step, dtype=torch.float64) * (2 * math.pi / self.scanner.views)

    def channel_position(self, angle: Tensor) -> Tensor:
        """Channel index (fractional) that a fan angle (radians) falls on."""
        return angle / self.channel_angle + (self.scanner.channels - 1) / 2 - self.scanner.channel_offset

    def fan_angles(self, channels: Tensor) -> Tensor:
        """Fan angle (radians) of channel indices; the inverse of :meth:`channel_position`."""
        return (channels - (self.scanner.channels - 1) / 2 + self.scanner.channel_offset) * self.channel_angle
