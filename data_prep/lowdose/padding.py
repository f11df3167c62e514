"""Padding: pixels that hold no measurement, such as those outside of the circle that was reconstructed."""

import numpy as np
from numpy.typing import NDArray

from data_prep.volume import AIR_HU

_WIDTH = 5  # pixels; in noisy air so many neighbours are never all at the lowest value


def padding(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Find padding in slices (n, rows, columns): areas of 5 x 5 pixels and more, all at -1024 HU.

    At the image's edge it goes on outside, so that there a narrow strip is enough.
    """
    lowest: NDArray[np.bool_] = hu == AIR_HU
    if not lowest.any():
        return lowest
    margin = _WIDTH - 1
    padded = np.pad(lowest, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    squares = _along(_along(padded, 1, np.logical_and), 2, np.logical_and)
    return _along(_along(squares, 1, np.logical_or), 2, np.logical_or)


def _along(mask: NDArray[np.bool_], axis: int, combine: np.ufunc) -> NDArray[np.bool_]:
    """Combine each five neighbours along an axis; the result is four shorter."""
    single = np.moveaxis(mask, axis, 0)
    pair = combine(single[:-1], single[1:])
    return np.asarray(np.moveaxis(combine(combine(pair[:-3], pair[2:-1]), single[_WIDTH - 1 :]), 0, axis))
