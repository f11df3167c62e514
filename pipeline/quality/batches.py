"""A scan's slices, some at a time: for measures in float64, whose memory shall not grow with the scan."""

from collections.abc import Iterator

from torch import Tensor

_ON_A_GPU = 16
"""Slices. A CPU takes them singly, as four of 512 x 512 no longer fit its cache: edges then take 1.4 times as long."""


def batches(*volumes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few slices of each volume, (slices, ...), in turn."""
    slices = _ON_A_GPU if volumes[0].is_cuda else 1
    return zip(*(volume.split(slices) for volume in volumes), strict=True)
