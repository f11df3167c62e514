"""Which slices of a scan make a volume.

``strided`` and ``grouped`` are the 3D-DDnet paper's: every k-th slice of the whole scan, or the
slices around its middle. ``window`` takes neighbouring slices from anywhere, anew at each visit.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError

Sampling = Literal["strided", "grouped", "window"]
Indices = NDArray[np.int64]


def choose(sampling: Sampling, available: int, slices: int, generator: np.random.Generator) -> Indices:
    """Indices of ``slices`` out of ``available`` slices; only ``window`` draws from the generator.

    Raises:
        UserError: fewer slices are there than asked for.
    """
    check_enough(available, slices)
    if sampling == "strided":
        return np.arange(slices) * (available // slices)
    start = (available - slices) // 2 if sampling == "grouped" else int(generator.integers(available - slices + 1))
    return start + np.arange(slices)


def cover(sampling: Sampling, available: int, slices: int) -> list[Indices]:
    """Volumes alike to those of training that together hold every slice at least once."""
    check_enough(available, slices)
    if sampling == "strided":
        step, rest = divmod(available, slices)
        offsets = [*range(step), *(range(rest, rest + step) if rest else ())]
        return [offset + np.arange(slices) * step for offset in offsets]
    starts = [*range(0, available - slices + 1, slices)]
    if starts[-1] + slices < available:
        starts.append(available - slices)
    return [start + np.arange(slices) for start in starts]


def check_enough(available: int, slices: int) -> None:
    """Refuse volumes with more slices than there are."""
    if available < slices:
        raise UserError(f"{slices} slices a volume were asked for, but a scan or slab has only {available}")
