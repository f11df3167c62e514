"""Which slices of a scan go through a network in one pass, and with which weights the passes are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling import Indices, cover
from pipeline.settings.cells import CellSettings

OVERLAP = 4  # a quarter of a window's slices lie in the next one too


@dataclass(frozen=True)
class Window:
    """Slices that go through the network in one pass, and the weight of each in the average over all windows.

    The first ``len(weights)`` of ``slices`` count; further ones mirror the end of a scan that is too short. The
    weights of a slice sum to one over all windows.
    """

    slices: Indices
    weights: NDArray[np.float32]


def plan_windows(cell: CellSettings, available: int) -> list[Window]:
    """Cover a scan of ``available`` slices by volumes like those of the cell's training, in order.

    A scan that is shorter than one volume is mirrored at its end.
    """
    if available < cell.slices:
        mirrored = np.pad(np.arange(available), (0, cell.slices - available), "symmetric")
        return [Window(mirrored, np.ones(available, np.float32))]
    if cell.sampling == "strided":
        return _weighted(cover("strided", available, cell.slices), np.ones(cell.slices), available)
    return _overlapping(available, cell.slices)


def _overlapping(available: int, slices: int) -> list[Window]:
    """Neighbouring slices, evenly spread over the scan; weights fall linearly where two windows overlap."""
    overlap = slices // OVERLAP
    count = -(-(available - overlap) // (slices - overlap))
    starts = np.rint(np.linspace(0, available - slices, count)).astype(np.int64)
    rise = np.arange(1.0, slices + 1)
    ramp = np.minimum(np.minimum(rise, rise[::-1]), overlap + 1)
    return _weighted([start + np.arange(slices) for start in starts], ramp, available)


def _weighted(volumes: Sequence[Indices], ramp: NDArray[np.float64], available: int) -> list[Window]:
    """Windows whose weights follow ``ramp`` from their first slice to their last, and sum to one over all windows."""
    total = np.zeros(available)
    for slices in volumes:
        total[slices] += ramp
    return [Window(slices, (ramp / total[slices]).astype(np.float32)) for slices in volumes]


def count_complete(plan: Sequence[Window], slices: int) -> list[int]:
    """Count the leading slices that no later window holds: before the first window, and after each."""
    firsts = [int(window.slices[0]) for window in plan[1:]]
    return [0, *(min(firsts[k:]) for k in range(len(firsts))), slices]
