"""Named scalings from HU to network units and back.

Settings name them, so that numpy is imported where it is needed: the command line answers sooner without.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ScalingName = Literal["hu", "unit", "minmax"]
REFERENCE_DOSE = 0.1
"""At which a network that is told the dose sees intensities as one that is not."""
HU_LOW, HU_HIGH = -1024.0, 3072.0
CHEST_SD: dict[ScalingName, float] = {"hu": 5.0, "unit": 0.12, "minmax": 0.12}  # 500 HU in a slice, network units
DATA_RANGE: dict[ScalingName, float] = {"hu": 20.0, "unit": 1.0, "minmax": 1.0}  # for SSIM, network units


@dataclass(frozen=True)
class Scaling:
    """The linear map network units = (HU - offset) / width."""

    offset: float
    width: float

    def to_network(self, hu: "NDArray[np.generic]") -> "NDArray[np.float32]":
        """Convert HU to network units."""
        import numpy as np

        return (np.asarray(hu, dtype=np.float32) - np.float32(self.offset)) / np.float32(self.width)


def scaling(name: ScalingName, hu: "NDArray[np.generic]", dose: float | None = None) -> Scaling:
    """Return the scaling of a volume.

    With ``dose``, a fraction of the full dose, the width is that of ``REFERENCE_DOSE`` times the ratio of their noise,
    so that in network units noise is as strong at every dose.

    ``hu``: HU / 100. ``unit``: -1024 to 3072 HU become 0 to 1. ``minmax``: the volume's extremes become 0 and 1, as
    the 3D-DDnet authors do; the network then cannot tell absolute HU.
    """
    factor = math.sqrt(REFERENCE_DOSE / dose) if dose else 1.0
    if name == "hu":
        return Scaling(0.0, 100.0 * factor)
    if name == "unit":
        return Scaling(HU_LOW, (HU_HIGH - HU_LOW) * factor)
    low, high = float(hu.min()), float(hu.max())
    return Scaling(low, max(high - low, 1.0) * factor)
