"""Low dose, pairs and digests of whole volumes in memory, for tests and benchmarks that need no chunks."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.group_writer import writing_group
from data_prep.lowdose.model import NoiseModel
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.partners import FULL_DOSE, LOW_DOSE
from data_prep.settings import LowDoseSettings
from data_prep.volume import CTVolume
from tests.scans import chest

ARRAYS = (FULL_DOSE, LOW_DOSE)
_BATCH = 16  # slices that a thread simulates at a time


def simulate(
    volume: CTVolume, settings: LowDoseSettings, scan: str, *, threads: int = 1, model: NoiseModel | None = None
) -> NDArray[np.int16]:
    """Simulate the low-dose partner of a full-dose volume: int16 HU, same shape, not below -1024."""
    simulator = LowDoseSimulator(settings, volume.hu.shape[1], volume.spacing[2], model=model)
    starts = range(0, len(volume.hu), _BATCH)
    with ThreadPoolExecutor(threads) as pool:
        batches = pool.map(lambda start: simulator.low_dose(volume.hu[start : start + _BATCH], scan, start), starts)
        return np.concatenate(list(batches))


def write_pair(
    path: Path,
    arrays: Mapping[str, NDArray[np.int16]],
    spacing: tuple[float, float, float],
    provenance: Mapping[str, Any],
    affine: NDArray[np.float64] | None = None,
) -> dict[str, str]:
    """Write ``full_dose`` and ``low_dose`` as :func:`writing_group` does; return their digests."""
    slices, rows, columns = arrays["full_dose"].shape
    with writing_group(path, ARRAYS, (slices, rows, columns), spacing, affine) as writer:
        writer.write(*(arrays[name] for name in ARRAYS))
        return writer.close(provenance)


def digest_array(array: NDArray[np.int16]) -> str:
    """Return the SHA-256 of an array's little-endian bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<i2").tobytes()).hexdigest()


def write_toy_pair(data: Path, scan: str = "a", slices: int = 48, side: int = 64, seed: int = 0) -> Path:
    """Write a toy chest and itself with noise as ``toy/<scan>.zarr`` below ``data``; return ``data``."""
    full = chest(slices, side, seed)
    noise = np.random.default_rng(seed).normal(0, 40, full.shape)
    low = np.clip(full + noise, -1024, 3000).astype(np.int16)
    write_pair(data / "toy" / f"{scan}.zarr", {"full_dose": full, "low_dose": low}, (2.5, 0.7, 0.7), {})
    return data
