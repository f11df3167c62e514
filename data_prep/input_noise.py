"""Noise of a scan as a network gets it, measured alike in the low dose that it learns from and in what it denoises."""

import numpy as np
from numpy.typing import NDArray

from data_prep.lowdose.blocks import WIDE
from data_prep.lowdose.scan_noise import ScanNoise, Slab, measure_noise, slab_ranges
from data_prep.originals import Original
from data_prep.volume import AIR_HU


def measure_input(scan: Original) -> ScanNoise | None:
    """Measure the noise in uniform soft tissue of a scan; None if there is too little of it, or hardly any noise.

    Raises:
        ScanError: a slice is broken.
    """
    if min(scan.plane) < WIDE.side:
        return None
    slabs = [Slab(start, np.stack([_read(scan, z) for z in range(start, stop)]))
             for start, stop in slab_ranges(scan.slices)]  # fmt: skip
    return measure_noise(slabs, scan.spacing[2])


def _read(scan: Original, z: int) -> NDArray[np.int16]:
    """Read a slice with air for padding; what int16 cannot hold is no soft tissue, and no number is refused later."""
    hu, padding = scan.read(z)
    limits = np.iinfo(np.int16)
    return np.where(padding, AIR_HU, np.clip(np.rint(np.nan_to_num(hu)), limits.min, limits.max)).astype(np.int16)
