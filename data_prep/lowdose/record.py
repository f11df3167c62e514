"""Record the noise of a pair: the scan's own, what the low dose adds to it, and what it should add."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.lowdose.flags import RATIO_RANGE
from data_prep.lowdose.scan_noise import ScanNoise, Slab, block_noise, summary

SMOOTH, SHARP = 0.22, 0.5
"""Mean frequency of the noise (cycles/mm) below and above which its grain is pointed out."""


class NoiseRecord:
    """Collects the low dose of the slices in which the scan's own noise was measured, and compares both.

    ``slabs``: of the full dose; ``dose``: fraction of the full dose, None where it is not known. ``added``: what the
    low dose adds to the slabs, once all chunks were added.
    """

    def __init__(self, slabs: Sequence[Slab], pixel: float, dose: float | None) -> None:
        self.slabs, self.pixel, self.dose = slabs, pixel, dose
        self.own = block_noise(slabs)
        self.added: list[Slab] = []

    def add(self, first: int, full: NDArray[np.int16], low: NDArray[np.int16]) -> None:
        """Take a chunk of both doses, (n, rows, columns); ``first``: index of its first slice."""
        for slab in self.slabs:
            start = slab.first - first
            if 0 <= start < len(full):
                inside = slice(start, start + len(slab.hu))
                self.added.append(Slab(slab.first, low[inside] - full[inside]))

    def row(self) -> Mapping[str, Any]:
        """Return the manifest's columns of noise: SD in HU and its interval, mean frequency in cycles/mm."""
        full, added = self.noise
        expected = full.sd * self.expected_factor if full and self.expected_factor else None
        ratio = added.sd / expected if added and expected else None
        low, high = full.interval if full else (None, None)
        return {
            **_columns("full", full),
            "noise_full_hu_low": _rounded(low),
            "noise_full_hu_high": _rounded(high),
            **_columns("added", added),
            **_columns("low", self.low()),
            "noise_expected_hu": _rounded(expected),
            "noise_ratio": _rounded(ratio),
            "noise_remark": "; ".join(_remarks(full, ratio, is_simulated=self.dose is not None)),
        }

    @cached_property
    def noise(self) -> tuple[ScanNoise | None, ScanNoise | None]:
        """Noise of the full dose, and what the low dose adds; None where it could not be measured."""
        added = block_noise(self.added, self.slabs) if self.own else None
        return (
            summary(self.own, self.pixel) if self.own else None,
            summary(added, self.pixel) if added else None,
        )

    def low(self) -> ScanNoise | None:
        """Measure the noise of the low dose itself, as that of a scan which a network shall denoise."""
        slabs = [Slab(added.first, full.hu + added.hu) for full, added in zip(self.slabs, self.added, strict=True)]
        noise = block_noise(slabs)
        return summary(noise, self.pixel) if noise else None

    @property
    def expected_factor(self) -> float | None:
        """SD of the noise that the dose must add, over the scan's own; None where the dose is not known."""
        return math.sqrt((1 - self.dose) / self.dose) if self.dose else None


def _remarks(noise: ScanNoise | None, ratio: float | None, *, is_simulated: bool) -> list[str]:
    if noise is None:
        followed = ", so what is added follows the defaults" if is_simulated else ""
        return [f"too little uniform soft tissue, or no noise, to measure the scan's own{followed}"]
    remarks = []
    if noise.centroid < SMOOTH:
        remarks.append("grain of a smooth kernel or of iterative reconstruction")
    if noise.centroid > SHARP:
        remarks.append("grain of a sharp kernel")
    if ratio and not RATIO_RANGE[0] <= ratio <= RATIO_RANGE[1]:
        remarks.append(f"added noise is {ratio:.2f} of the expected")
    return remarks


def _columns(name: str, noise: ScanNoise | None) -> dict[str, float | None]:
    return {
        f"noise_{name}_hu": _rounded(noise.sd if noise else None),
        f"noise_{name}_frequency": _rounded(noise.centroid if noise else None),
        f"noise_{name}_z_correlation": _rounded(first_correlation(noise) if noise else None),
    }


def first_correlation(noise: ScanNoise) -> float:
    """Return the correlation of the noise of neighbouring slices."""
    return noise.z_correlation[0] if noise.z_correlation else 0.0


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
