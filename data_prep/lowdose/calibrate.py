"""Measure the noise of a scan, and find the number of photons that gives a target noise."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import brentq
from torch import Tensor

from data_prep.errors import UserError
from data_prep.lowdose.model import NoiseModel
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings

SOFT_TISSUE_HU = (0.0, 170.0)
_BLOCK = 3  # a window is 3 x 3 blocks of 3 x 3 pixels, 6 mm at a chest scan's 0.7 mm; its neighbour is a block away
_WINDOW_PIXELS = _BLOCK**4
_MIN_WINDOWS = 100
_BINS_PER_UNIT, _SMOOTHING = 200, 10  # of the logarithm: bins of 0.5 %, smoothed over 5 %
_PHOTON_RANGE = (1e3, 1e9)


def noise_level(hu: NDArray[np.int16]) -> float:
    """Return the noise standard deviation (HU) in soft tissue of slices (n, rows, columns); nan without soft tissue.

    This is the global noise level of Christianson et al. 2015, doi:10.2214/AJR.14.13613: the most frequent
    standard deviation among small windows of soft tissue. Windows across an edge are rare, so they do not matter.
    """
    logarithms = np.concatenate([_log_deviations(torch.from_numpy(plane.astype(np.float64))) for plane in hu])
    return _mode(logarithms) if len(logarithms) >= _MIN_WINDOWS else math.nan


def _log_deviations(plane: Tensor) -> NDArray[np.float64]:
    mean, square = (F.avg_pool2d(F.avg_pool2d(x[None], _BLOCK), _BLOCK, stride=1) for x in (plane, plane**2))
    variance = (square - mean**2) * (_WINDOW_PIXELS / (_WINDOW_PIXELS - 1))
    lowest, highest = SOFT_TISSUE_HU
    soft = (mean >= lowest) & (mean <= highest) & (variance > 0)  # a window without variance is padding
    logarithms: NDArray[np.float64] = (variance[soft].log() / 2).numpy()
    return logarithms


def _mode(logarithms: NDArray[np.float64]) -> float:
    """Return the most frequent value from logarithms: bins of the logarithm are equally fine for low and high noise."""
    bins = np.floor(logarithms * _BINS_PER_UNIT).astype(np.int64)
    first = int(bins.min()) - 4 * _SMOOTHING
    counts = np.bincount(bins - first, minlength=int(bins.max()) - first + 4 * _SMOOTHING).astype(np.float64)
    levels = np.exp((first + 0.5 + np.arange(len(counts))) / _BINS_PER_UNIT)
    heights = gaussian_filter1d(counts, _SMOOTHING, mode="constant") / levels  # frequency per HU
    top = int(heights.argmax())
    left, middle, right = heights[top - 1 : top + 2]
    return float(levels[top] * np.exp((left - right) / (2 * (left - 2 * middle + right)) / _BINS_PER_UNIT))


def calibrate(
    hu: NDArray[np.int16], pixel_mm: float, settings: LowDoseSettings, target_sd: float, model: NoiseModel | None = None
) -> float:
    """Find the ``photons`` at which the low dose of full-dose slices (n, side, side) has a noise of ``target_sd`` HU.

    All else stays as the settings and the scan's noise model have it. The seeds stay the same too, so the noise
    changes smoothly with photons.

    Raises:
        UserError: the slices hold no soft tissue, or no photon number gives this noise.
    """
    numbered = settings.model_copy(update={"photons": _PHOTON_RANGE[0]})
    simulator = LowDoseSimulator(numbered, hu.shape[1], pixel_mm, model=model)
    relative = simulator.incident / simulator.model.photons

    def level(log_photons: float) -> float:
        simulator.incident = relative * math.exp(log_photons)
        return noise_level(simulator.low_dose(hu, "calibration", 0))

    start, stop = (math.log(photons) for photons in _PHOTON_RANGE)
    highest, lowest = level(start), level(stop)
    if math.isnan(highest + lowest):
        raise UserError("the slices hold no soft tissue, in which the noise could be measured")
    if not lowest < target_sd < highest:
        raise UserError(
            f"a noise of {target_sd:g} HU cannot be had from these slices at dose {settings.dose:g}, "
            f"only between {lowest:.1f} (their own) and {highest:.0f} HU"
        )
    return math.exp(brentq(lambda log_photons: level(log_photons) - target_sd, start, stop, xtol=1e-3))
