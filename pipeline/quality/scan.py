"""A denoised scan with its full dose: the input of the measures of a whole scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.noise_power import Noise, noise
from pipeline.quality.tissue import Mask, tissue_bias


@dataclass
class JudgedScan:
    """Image and full dose, (slices, rows, columns) in HU, both of the same shape.

    ``inside``: pixels of the body, as :func:`~pipeline.quality.tissue.body` finds it; ``spacing``: mm along y, x.
    ``noise`` in uniform soft tissue and ``bias`` in HU by tissue are computed once, as several measures need them.

    Raises:
        ValueError: image and full dose differ in shape.
    """

    image: NDArray[np.generic]
    full: NDArray[np.generic]
    inside: Mask
    spacing: Sequence[float]
    noise: Noise = field(init=False)
    bias: Mapping[str, float | None] = field(init=False)

    def __post_init__(self) -> None:
        if self.image.shape != self.full.shape:
            raise ValueError(f"image of {self.image.shape} must match the size of the full dose, {self.full.shape}")
        # not by cached_property: before Python 3.12 its lock would let one thread at a time judge
        self.noise = noise(self.image, self.full, self.spacing)
        self.bias = tissue_bias(self.image, self.full, self.inside)
