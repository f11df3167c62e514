"""A classical denoiser for comparison: total variation, slice by slice.

Rudin, Osher and Fatemi 1992 (doi:10.1016/0167-2789(92)90242-F), solved after Chambolle 2004
(doi:10.1023/B:JMIV.0000011325.36760.1e) by scikit-image.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_tv_chambolle

STRENGTHS = (10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0)
"""HU: scikit-image's ``weight``. Noise of a tenth to a quarter of the dose needs one from the middle."""

SlicePair = tuple[NDArray[np.int16], NDArray[np.int16]]
"""Low and full dose of a slice, (rows, columns) in HU."""


def total_variation(low: NDArray[np.int16], strength: float, threads: int = 1) -> NDArray[np.float32]:
    """Denoise each slice of (slices, rows, columns) in HU; ``strength``: HU; ``threads``: that share the slices."""

    def denoise(plane: NDArray[np.int16]) -> NDArray[np.float32]:
        return np.asarray(denoise_tv_chambolle(plane.astype(np.float32), weight=strength))

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(denoise, low)))


def choose_strength(pairs: Iterable[SlicePair]) -> float:
    """Choose the strength of ``STRENGTHS`` with the least RMSE over slices, which must not be test slices."""
    errors = dict.fromkeys(STRENGTHS, 0.0)
    for low, full in pairs:
        for strength in STRENGTHS:
            errors[strength] += float(np.square(total_variation(low[None], strength)[0] - full, dtype=float).sum())
    return min(errors, key=lambda strength: errors[strength])
