"""A scan's slices, some at a time: for measures in float64, whose memory shall not grow with the scan."""

from collections.abc import Iterator

from torch import Tensor

BATCH = 4
"""Slices: enough that a GPU's kernels are longer than their launch, few enough for a CPU's cache."""


def batches(*volumes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few slices of each volume, (slices, ...), in turn."""
    return zip(*(volume.split(BATCH) for volume in volumes), strict=True)
