"""A denoised scan with its full dose: the input of the measures of a whole scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.quality.anatomy import Anatomy
from pipeline.quality.noise_power import Noise, noise
from pipeline.quality.tissue import tissue_bias


@dataclass
class JudgedScan:
    """Image and full dose, (slices, rows, columns) in HU, both of the same shape, on the device that judges them.

    ``anatomy``: of the full dose, on the same device; ``spacing``: mm along y, x. ``noise`` in uniform soft tissue and
    ``bias`` in HU by tissue are computed once, as several measures need them.

    Raises:
        ValueError: image and full dose differ in shape.
    """

    image: Tensor
    full: Tensor
    anatomy: Anatomy
    spacing: Sequence[float]
    noise: Noise = field(init=False)
    bias: Mapping[str, float | None] = field(init=False)

    def __post_init__(self) -> None:
        if self.image.shape != self.full.shape:
            image, full = tuple(self.image.shape), tuple(self.full.shape)
            raise ValueError(f"image of {image} must match the size of the full dose, {full}")
        # not by cached_property: before Python 3.12 its lock would let one thread at a time judge
        self.noise = noise(self.image, self.full, self.anatomy.uniform, self.spacing)
        self.bias = tissue_bias(self.image, self.full, self.anatomy.tissue)


def scan_on(
    device: torch.device, image: NDArray[np.generic], full: NDArray[np.generic], anatomy: Anatomy,
    spacing: Sequence[float],
) -> JudgedScan:  # fmt: skip
    """Copy arrays to the device that judges them."""
    hu, reference = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (image, full))
    return JudgedScan(hu, reference, anatomy.to(device), spacing)
