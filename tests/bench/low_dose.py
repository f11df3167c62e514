"""Benchmarks of the low-dose simulation."""

import numpy as np
import torch
from skimage.transform import iradon, radon

from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from tests.bench.timing import medians


def low_dose() -> tuple[float, float]:
    """Low dose for one 512 x 512 slice on one core, against scikit-image's radon and iradon of 1152 views."""
    torch.set_num_threads(1)
    simulator = LowDoseSimulator(LowDoseSettings(), 512, 0.7)
    slices = torch.zeros(16, 512, 512)
    image, angles = np.zeros((512, 512)), np.linspace(0, 180, 1152, endpoint=False)
    ours, baseline = medians(
        lambda: simulator.noise_hu(slices, list(range(16))),
        lambda: iradon(radon(image, angles), angles, filter_name="hann"),
        3,
    )
    return ours / 16, baseline


def low_dose_rate() -> tuple[float, float]:
    """Seconds a slice on one core, against a tenth of a second."""
    return low_dose()[0], 0.1
