"""Judge a denoised scan by all measures of the table."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.quality.measures import SCAN_MEASURES, SLAB_MEASURES, SLICE_MEASURES, SlabMeasure, SliceMeasure
from pipeline.quality.scan import JudgedScan

SLAB = 32
"""Slices that are judged at once."""


def judge(scan: JudgedScan) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Judge a scan; return its row, which has its noise spectrum too, and a row a slice."""
    numbers = slice_numbers(scan.image, scan.full)
    row = {
        **scan_row(numbers),
        **slab_row(scan.image, scan.full),
        "noise_blocks": scan.noise.blocks,
        **{measure.name: measure.compute(scan) for measure in SCAN_MEASURES},
        "nps": [scan.noise.frequency, scan.noise.nps],
    }
    return row, slice_rows(numbers)


def slice_numbers(image: Tensor, full: Tensor) -> dict[str, list[Any]]:
    """Compute what measures of slices convert: by the name of the function, its numbers of each slice."""
    slabs = [slice(z, z + SLAB) for z in range(0, len(full), SLAB)]
    return {
        name: [numbers for slab in slabs for numbers in compute(image[slab], full[slab])]
        for name, compute in _functions(SLICE_MEASURES).items()
    }


def slice_rows(numbers: Mapping[str, Sequence[Any]]) -> list[dict[str, float]]:
    """Convert the numbers of :func:`slice_numbers` to a row a slice."""
    slices = (dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True))
    return [_converted(SLICE_MEASURES, values) for values in slices]


def scan_row(numbers: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Convert them to the scan's row: error and PSNR of all its voxels, mean similarity of its slices."""
    return _converted(SLICE_MEASURES, {name: _average(values) for name, values in numbers.items()})


def slab_row(image: Tensor, full: Tensor) -> dict[str, float]:
    """Average each measure of slabs over even slabs of at most ``SLAB`` slices, weighted by their slices."""
    slabs = list(_slabs(image, full))
    sizes = [len(reference) for _, reference in slabs]
    means = {
        name: _average([compute(*slab) for slab in slabs], sizes) for name, compute in _functions(SLAB_MEASURES).items()
    }
    return _converted(SLAB_MEASURES, means)


def _average(values: Sequence[Any], weights: Sequence[int] | None = None) -> Any:
    """Average over the first axis; of several numbers each is rounded as if it were alone."""
    return np.average(np.ascontiguousarray(np.transpose(values)), axis=-1, weights=weights)


def _converted(measures: Sequence[SliceMeasure | SlabMeasure], numbers: Mapping[str, Any]) -> dict[str, float]:
    return {measure.name: float(measure.convert(numbers[measure.compute])) for measure in measures}


def _functions(measures: Sequence[SliceMeasure | SlabMeasure]) -> dict[str, Callable[[Tensor, Tensor], Any]]:
    """Import the functions of two images that measures name, some the same."""
    names = dict.fromkeys(measure.compute for measure in measures)
    return {name: resolve_name(f"pipeline.quality.{name}") for name in names}


def _slabs(image: Tensor, full: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    count = math.ceil(len(full) / SLAB)
    return zip(image.tensor_split(count), full.tensor_split(count), strict=True)
