"""HU to network units and back, by named scalings."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ScalingName = Literal["hu", "unit", "minmax"]
HU_LOW, HU_HIGH = -1024.0, 3072.0
DATA_RANGE: dict[ScalingName, float] = {"hu": 20.0, "unit": 1.0, "minmax": 1.0}  # for SSIM, network units


@dataclass(frozen=True)
class Scaling:
    """network = (HU - offset) / width."""

    offset: float
    width: float

    def to_network(self, hu: NDArray[np.generic]) -> NDArray[np.float32]:
        """HU to network units."""
        return (np.asarray(hu, dtype=np.float32) - np.float32(self.offset)) / np.float32(self.width)

    def to_hu(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Network units to HU."""
        return values * np.float32(self.width) + np.float32(self.offset)


def scaling(name: ScalingName, hu: NDArray[np.generic]) -> Scaling:
    """The scaling of one volume.

    ``hu``: HU / 100. ``unit``: -1024 to 3072 HU onto [0, 1].
    ``minmax``: the volume's own extremes onto [0, 1], as the 3D-DDnet authors do; it loses HU.
    """
    if name == "hu":
        return Scaling(0.0, 100.0)
    if name == "unit":
        return Scaling(HU_LOW, HU_HIGH - HU_LOW)
    low, high = float(hu.min()), float(hu.max())
    return Scaling(low, max(high - low, 1.0))
