"""Judge a denoised scan by all measures of the table."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.quality.measures import SCAN_MEASURES, SLAB_MEASURES, SLICE_MEASURES, SlabMeasure
from pipeline.quality.scan import JudgedScan

SLAB = 32
"""Slices that are judged at once."""


def judge(scan: JudgedScan) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Judge a scan; return its row, which has its noise spectrum too, and a row a slice."""
    numbers = slice_numbers(scan.image, scan.full)
    row = {
        **scan_row(numbers),
        **{measure.name: mean_of_slabs(measure, scan.image, scan.full) for measure in SLAB_MEASURES},
        "noise_blocks": scan.noise.blocks,
        **{measure.name: measure.compute(scan) for measure in SCAN_MEASURES},
        "nps": [scan.noise.frequency, scan.noise.nps],
    }
    return row, slice_rows(numbers)


def slice_numbers(image: Tensor, full: Tensor) -> dict[str, list[float]]:
    """Compute each measure of slices, not converted yet: by the measure's name, a number a slice."""
    slabs = [slice(z, z + SLAB) for z in range(0, len(full), SLAB)]
    functions = {name: _function(name) for name in {measure.compute for measure in SLICE_MEASURES}}  # some share one
    numbers = {
        name: [number for slab in slabs for number in compute(image[slab], full[slab])]
        for name, compute in functions.items()
    }
    return {measure.name: numbers[measure.compute] for measure in SLICE_MEASURES}


def slice_rows(numbers: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Convert the numbers of :func:`slice_numbers` to a row a slice."""
    return [_converted(dict(zip(numbers, values, strict=True))) for values in zip(*numbers.values(), strict=True)]


def scan_row(numbers: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Convert them to the scan's row: error and PSNR of all its voxels, mean similarity of its slices."""
    return _converted({name: float(np.mean(values)) for name, values in numbers.items()})


def _converted(numbers: Mapping[str, float]) -> dict[str, float]:
    return {measure.name: measure.convert(numbers[measure.name]) for measure in SLICE_MEASURES}


def mean_of_slabs(measure: SlabMeasure, image: Tensor, full: Tensor) -> float:
    """Average a measure over even slabs of at most ``SLAB`` slices, weighted by their slices."""
    slabs, compute = list(_slabs(image, full)), _function(measure.compute)
    return float(np.average([compute(*slab) for slab in slabs], weights=[len(slab[0]) for slab in slabs]))


def _function(name: str) -> Callable[[Tensor, Tensor], Any]:
    """Import the function of two images that a measure names."""
    function: Callable[[Tensor, Tensor], Any] = resolve_name(f"pipeline.quality.{name}")
    return function


def _slabs(image: Tensor, full: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    count = math.ceil(len(full) / SLAB)
    return zip(image.tensor_split(count), full.tensor_split(count), strict=True)
