"""Benchmarks of reading training volumes from disk."""

import tempfile
from pathlib import Path

import numpy as np

from data_prep.store import Pair, write_pair
from tests.bench.timing import medians


def load_grouped() -> tuple[float, float]:
    """16 neighbouring slices of a pair from Zarr, against a raw ``np.memmap`` of the same values."""
    hu = np.random.default_rng(0).normal(0, 60, (128, 512, 512)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path, raw = Path(folder) / "a.zarr", Path(folder) / "raw"
        write_pair(path, {"full_dose": hu, "low_dose": hu}, (1, 1, 1), {})
        hu.tofile(raw)
        pair, mapped = Pair(path), np.memmap(raw, np.int16, "r", shape=hu.shape)
        ours, baseline = medians(
            lambda: [pair.read(name, 50, 66) for name in ("full_dose", "low_dose")],
            lambda: [np.array(mapped[50:66]) for _ in range(2)],
        )
    return ours, baseline
