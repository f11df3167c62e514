"""Classical denoisers for comparison.

Total variation, slice by slice: Rudin, Osher and Fatemi 1992 (doi:10.1016/0167-2789(92)90242-F), solved after Chambolle
2004 (doi:10.1023/B:JMIV.0000011325.36760.1e). Non-local means in three dimensions: Buades, Coll and Morel 2005
(doi:10.1109/CVPR.2005.38). Both by scikit-image.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PATCH, REACH = 5, 3
"""Of non-local means: side of the patches that are compared, and how far from a voxel they lie; voxels."""
DECAY = 0.6
"""Of non-local means: scikit-image's ``h`` over the noise's standard deviation."""
_LEAST, _MOST, _STEP = 1.0, 1000.0, 1.5  # HU; and from one strength to the next beyond those that are tried first
_SLAB = 32  # slices that a thread denoises at once; fixed, as sums are rounded by the volume's size
_HALO = REACH + PATCH // 2

SlabPair = tuple[NDArray[np.int16], NDArray[np.int16]]
"""Low and full dose of neighbouring slices, (slices, rows, columns) in HU."""
Denoise = Callable[[NDArray[np.int16], float, int], NDArray[np.float32]]
"""Function from the low dose, (slices, rows, columns) in HU, its strength (HU) and a number of threads to the image."""


@dataclass(frozen=True)
class Classical:
    """A classical denoiser: its function, the strengths (HU) that are tried first, and the slices it takes together."""

    denoise: Denoise
    strengths: tuple[float, ...]
    slices: int


def total_variation(low: NDArray[np.int16], strength: float, threads: int = 1) -> NDArray[np.float32]:
    """Denoise each slice of (slices, rows, columns) in HU; ``strength``: scikit-image's ``weight``, HU."""
    from skimage.restoration import denoise_tv_chambolle  # a second of a core, which judging a network is spared

    def denoise(plane: NDArray[np.int16]) -> NDArray[np.float32]:
        return np.asarray(denoise_tv_chambolle(plane.astype(np.float32), weight=strength))

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(denoise, low)))


def non_local_means(low: NDArray[np.int16], strength: float, threads: int = 1) -> NDArray[np.float32]:
    """Denoise (slices, rows, columns) in HU, in three dimensions; ``strength``: standard deviation of the noise, HU."""
    from skimage.restoration import denoise_nl_means

    def denoise(start: int) -> NDArray[np.float32]:
        first = max(0, start - _HALO)
        slab = low[first : start + _SLAB + _HALO].astype(np.float32)
        image = denoise_nl_means(slab, PATCH, REACH, h=DECAY * strength, sigma=strength, fast_mode=True)
        inside = slice(start - first, start - first + _SLAB)
        return np.asarray(image.reshape(slab.shape)[inside], np.float32)  # the library drops an axis of one slice

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(denoise, range(0, len(low), _SLAB))))


CLASSICAL: dict[str, Classical] = {
    "tv": Classical(total_variation, (10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0), slices=1),
    "nlm": Classical(non_local_means, (10.0, 20.0, 30.0, 40.0, 60.0, 80.0), slices=8),
}


def choose_strength(method: Classical, pairs: Iterable[SlabPair]) -> float:
    """Choose the strength with the least RMSE over slabs, which must not be of the test part.

    Where the least or the largest that was tried is the best, the search goes on beyond it: no baseline is to lose
    because the noise is weaker or stronger than foreseen.
    """
    slabs, errors, untried = list(pairs), dict[float, float](), list(method.strengths)
    while untried:
        errors |= {strength: _squared_error(method, strength, slabs) for strength in untried}
        best = min(errors, key=lambda strength: errors[strength])
        beyond = {min(errors): best / _STEP, max(errors): best * _STEP}
        untried = [beyond[best]] if best in beyond and _LEAST <= beyond[best] <= _MOST else []
    return best


def _squared_error(method: Classical, strength: float, slabs: Iterable[SlabPair]) -> float:
    return sum(float(np.square(method.denoise(low, strength, 1) - full, dtype=float).sum()) for low, full in slabs)
