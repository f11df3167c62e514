"""What the full dose alone shows of a scan: its tissues, and blocks of even soft tissue to measure noise in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device, from_numpy

from pipeline.quality.noise_power import uniform_blocks
from pipeline.quality.tissue import Mask, classify, smoothed


@dataclass(frozen=True)
class Anatomy:
    """Tissue of each pixel, (slices, rows, columns), and which blocks are uniform, (slices, rows, columns of blocks).

    ``tissue``: as :func:`~pipeline.quality.tissue.classify` numbers them.
    """

    tissue: Tensor
    uniform: Tensor

    def to(self, target: device) -> "Anatomy":
        """Copy both to a device."""
        return Anatomy(self.tissue.to(target), self.uniform.to(target))


def survey(full: NDArray[np.generic], inside: Mask) -> Anatomy:
    """Find tissues and uniform blocks in (slices, rows, columns) in HU; ``inside``: pixels of the body."""
    tissue, uniform = [], []
    for plane, mask in zip(full, inside, strict=True):
        even = smoothed(plane)
        tissue.append(classify(even, mask))
        uniform.append(uniform_blocks(even))
    return Anatomy(from_numpy(np.stack(tissue)), from_numpy(np.stack(uniform)))
