"""Record the noise of a pair: the scan's own, what the low dose adds to it, and what it should add."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.lowdose.flags import is_odd
from data_prep.lowdose.scan_noise import (
    ROUNDING,
    BlockNoise,
    ScanNoise,
    Slab,
    block_noise,
    coarsen,
    coarsened,
    measure_noise,
    slab_sd,
    summary,
    visible_noise,
)

_MOST_SHIFT = 0.05  # of the mean frequency
_SMOOTH, _SHARP = 0.22, 0.5
"""Mean frequency of the noise (cycles/mm) below and above which its grain is pointed out."""


class NoiseRecord:
    """Collects the low dose of the slices in which the scan's own noise was measured, and compares both.

    ``slabs``: of the full dose, and ``pixel``: the size of their pixels, mm, both coarser than the scan's by ``step``
    where blocks of the scan's own pixels are too small to show its noise. ``dose``: fraction of the full dose, None
    where it is not known. ``added``: what the low dose adds to the slabs, once all chunks were added.
    """

    def __init__(self, slabs: Sequence[Slab], pixel: float, dose: float | None) -> None:
        self.step, self.own = visible_noise(slabs)
        self.slabs, self.pixel, self.dose = coarsened(slabs, self.step), pixel * self.step, dose
        self.added = _without_noise(self.slabs)

    def of_dose(self, dose: float | None) -> Self:
        """Return an empty record of another low dose of the same slabs."""
        record = copy(self)
        record.dose, record.added = dose, _without_noise(self.slabs)
        return record

    def add(self, first: int, full: NDArray[np.int16], low: NDArray[np.int16]) -> None:
        """Take a chunk of both doses, (n, rows, columns); ``first``: index of its first slice."""
        for slab in self.added:
            start, stop = max(slab.first, first), min(slab.first + len(slab.hu), first + len(full))
            if start < stop:
                chunk = slice(start - first, stop - first)
                slab.hu[start - slab.first : stop - slab.first] = coarsen(low[chunk] - full[chunk], self.step)

    def row(self, *, is_cut: bool = False) -> Mapping[str, Any]:
        """Return the manifest's columns of noise: SD in HU and its interval, mean frequency in cycles/mm.

        ``is_cut``: where the field is wider than the fan no noise was added.
        """
        full, added = self.noise
        low = self._low()
        expected = full.sd * self.expected_factor if full and self.expected_factor else None
        ratio = math.sqrt(max(added.sd**2 - ROUNDING, 0)) / expected if added and expected else None
        remarks = _remarks(full, added, ratio, is_simulated=self.dose is not None)
        remarks += ["no noise beyond the fan, which the field is wider than"] if is_cut else []
        return {
            **_columns("full", full),
            **_bounds("noise_full_hu", full.interval if full else None),
            **_columns("added", added),
            **_columns("low", low),
            **_bounds("noise_low_hu", low.slab_range if low else None),
            "noise_expected_hu": _rounded(expected),
            "noise_ratio": _rounded(ratio),
            **_bounds("noise_ratio", self._slab_ratios()),
            "noise_remark": "; ".join(remarks),
        }

    @cached_property
    def noise(self) -> tuple[ScanNoise | None, ScanNoise | None]:
        """Noise of the full dose, and what the low dose adds; None where it could not be measured."""
        return (
            summary(self.own, self.pixel) if self.own else None,
            summary(self._added_noise, self.pixel) if self._added_noise else None,
        )

    @cached_property
    def _added_noise(self) -> BlockNoise | None:
        return block_noise(self.added, self.slabs) if self.own else None

    def _slab_ratios(self) -> tuple[float, float] | None:
        """Return the least and the highest ratio of added to expected noise of a slab."""
        if not self.own or not self._added_noise or not self.expected_factor:
            return None
        full, added = slab_sd(self.own), slab_sd(self._added_noise)
        ratios = [added[slab] / full[slab] / self.expected_factor for slab in full if slab in added]
        return (min(ratios), max(ratios)) if ratios else None

    def _low(self) -> ScanNoise | None:
        """Measure the noise of the low dose itself, as that of a scan which a network shall denoise."""
        slabs = [Slab(added.first, full.hu + added.hu) for full, added in zip(self.slabs, self.added, strict=True)]
        return measure_noise(slabs, self.pixel)

    @property
    def expected_factor(self) -> float | None:
        """SD of the noise that the dose must add, over the scan's own; None where the dose is not known."""
        return math.sqrt((1 - self.dose) / self.dose) if self.dose else None


def _without_noise(slabs: Sequence[Slab]) -> list[Slab]:
    return [Slab(slab.first, np.zeros_like(slab.hu)) for slab in slabs]


def _remarks(full: ScanNoise | None, added: ScanNoise | None, ratio: float | None, *, is_simulated: bool) -> list[str]:
    if full is None:
        followed = "; what the settings leave to the scan follows the defaults" if is_simulated else ""
        return [f"too few slices, too little uniform soft tissue, or no noise, to measure the scan's own{followed}"]
    if added is None:
        return ["too little noise was added to be measured"]
    remarks = []
    if full.centroid < _SMOOTH:
        remarks.append("grain of a smooth kernel or of iterative reconstruction")
    if full.centroid > _SHARP:
        remarks.append("grain of a sharp kernel")
    if is_simulated and abs(added.centroid / full.centroid - 1) > _MOST_SHIFT:
        remarks.append(f"mean frequency of the added noise is {added.centroid / full.centroid:.2f} of the scan's own")
    if is_odd(ratio):
        remarks.append(f"added noise is {ratio:.2f} of the expected")
    return remarks


def _bounds(name: str, bounds: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {f"{name}_low": _rounded(low), f"{name}_high": _rounded(high)}


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
