"""Padding: pixels that hold no measurement, such as those outside the circle that was reconstructed."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from data_prep.volume import AIR_HU

_WIDTH = 5  # pixels; in noisy air so many neighbours are never all at the lowest value


def padding(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Find padding in slices (n, rows, columns): areas of 5 x 5 pixels and more, all at -1024 HU."""
    lowest = (hu == AIR_HU).view(np.uint8)
    squares = minimum_filter(lowest, (1, _WIDTH, _WIDTH), mode="nearest")
    opened: NDArray[np.bool_] = maximum_filter(squares, (1, _WIDTH, _WIDTH), mode="nearest").view(np.bool_)
    return opened
