"""Benchmarks of the low-dose simulation."""

import statistics

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.transform import iradon, radon

from data_prep.lowdose.matching import match
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import read_slabs
from data_prep.readers.nifti import open_nifti
from data_prep.settings import LowDoseSettings
from data_prep.sources.sample import sample_path
from data_prep.volume import CHUNK_SLICES, SIDE, CTScan
from tests.bench.timing import ROUNDS, medians, seconds_of


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
    """Seconds a slice of the sample on one core, its own noise measured and followed, against 25 slices a second."""
    torch.set_num_threads(1)
    volume = open_nifti(sample_path()).load()
    scan = CTScan(len(volume.hu), volume.spacing, lambda start, stop: volume.hu[start:stop])
    seconds = statistics.median(seconds_of(lambda: simulate_scan(scan, LowDoseSettings())) for _ in range(ROUNDS))
    return seconds / scan.slices, 1 / 25


def fresh_noise() -> tuple[float, float]:
    """Seconds a slice with fresh noise on one core, slice by slice as 2D trainings ask for it, against 25 a second."""
    torch.set_num_threads(1)
    simulator, hu = LowDoseSimulator(LowDoseSettings(), SIDE, 0.7), np.zeros((8, SIDE, SIDE), np.int16)
    seconds = statistics.median(
        seconds_of(lambda: simulator.low_dose(hu, "bench", 0, single=True)) for _ in range(ROUNDS)
    )
    return seconds / len(hu), 1 / 25


def simulate_scan(scan: CTScan, settings: LowDoseSettings) -> NDArray[np.int16]:
    """Return the low dose of a scan as preparation simulates it: with its own noise, and a record of what was added."""
    pixel, low = scan.spacing[2], np.empty((scan.slices, SIDE, SIDE), np.int16)
    record = NoiseRecord(read_slabs(scan), pixel, settings.dose)
    model = match(record.slabs, record.own, settings, record.pixel, scan.acquisition)
    simulator = LowDoseSimulator(settings, SIDE, pixel, model=model)
    for start, full in zip(range(0, scan.slices, CHUNK_SLICES), scan.chunks(), strict=True):
        chunk = low[start : start + CHUNK_SLICES]
        chunk[:] = simulator.low_dose(full, "bench", start)
        record.add(start, full, chunk)
    record.row()
    return low
