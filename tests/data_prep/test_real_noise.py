"""Low dose of real scans, against a second measure of their noise: differences of neighbouring slices, plain numpy."""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from data_prep.lowdose.scan_noise import Slab, read_slabs
from data_prep.readers.nifti import open_nifti
from data_prep.settings import LowDoseSettings, SourceSettings
from data_prep.sources.discovery import discover
from data_prep.volume import CTScan
from tests.beside import shared_file
from tests.data_prep.noisy_scans import Array, LowDose, low_dose_of

SAMPLE, LIDC, SHARP, SOFT = "LIDC-IDRI-0001", "LIDC-IDRI-0003", "Lung_Dx-A0002 B70f", "Lung_Dx-A0002 B40f"


@cache
def low_dose(name: str, sample_path: Path | None) -> LowDose:
    scan = open_nifti(sample_path) if sample_path else dicom_scan(*name.split())
    slabs = read_slabs(scan)[::3]  # enough for the limits below
    return low_dose_of(slabs, scan.spacing[2], LowDoseSettings(doses=(0.1,)), scan.acquisition)


def dicom_scan(folder: str, kernel: str | None = None) -> CTScan:
    source = SourceSettings(kind="dicom", path=shared_file(f"ct/{folder}"), kernel=kernel)
    (series,) = discover((source,)).series
    return series.open(series.files)


def difference_noise(volumes: Sequence[Array], slabs: Sequence[Slab]) -> float:
    """Robust SD of what is fine in differences of neighbouring slices, where 17 x 17 pixels are even soft tissue."""
    fine = []
    for volume, slab in zip(volumes, slabs, strict=True):
        mean = (slab.hu[1:] + slab.hu[:-1].astype(float)) / 2
        smooth = uniform_filter(mean, (0, 9, 9))
        slope = np.hypot(*np.gradient(smooth, axis=(1, 2)))
        even = uniform_filter(((smooth > 10) & (smooth < 110) & (slope < 3)) * 1.0, (0, 17, 17)) > 0.97
        difference = np.diff(volume, axis=0)
        fine.append((difference - uniform_filter(difference, (0, 9, 9)))[even])
    return float(np.median(np.abs(np.concatenate(fine))) / 0.6745)


def full_dose_noise(slabs: Sequence[Slab]) -> float:
    return difference_noise([slab.hu.astype(float) for slab in slabs], slabs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SAMPLE, LIDC, SHARP, SOFT])
def test_a_real_scan_gets_three_times_its_noise_at_a_tenth_of_the_dose(
    name: str, request: pytest.FixtureRequest
) -> None:
    low = low_dose(name, request.getfixturevalue("sample_path") if name == SAMPLE else None)
    slabs = low.record.slabs
    assert 0.9 < low.ratio < 1.1
    assert 0.9 < difference_noise(low.added, slabs) / (3 * full_dose_noise(slabs)) < 1.1
    full, added = low.record.noise
    assert full
    assert added
    assert added.centroid == pytest.approx(full.centroid, rel=0.03)
    for pair in zip_longest(added.z_correlation, full.z_correlation, fillvalue=0.025):  # what is below 0.05 is left out
        assert pair[0] == pytest.approx(pair[1], abs=0.05)
    has_power = np.array(full.spectrum) > 0.03 * max(full.spectrum)
    has_power[:2] = False  # lower frequencies hold anatomy
    np.testing.assert_allclose((np.array(added.spectrum) / full.spectrum / 9)[has_power], 1, atol=0.15)


@pytest.mark.slow
def test_two_kernels_of_one_acquisition_get_noise_of_their_own() -> None:
    records = [low_dose(name, None).record for name in (SHARP, SOFT)]
    sharp, soft = (record.noise[1] for record in records)
    assert sharp
    assert soft
    levels = [full_dose_noise(record.slabs) for record in records]
    assert levels[0] > 3 * levels[1]
    assert sharp.sd / soft.sd == pytest.approx(levels[0] / levels[1], rel=0.05)
    assert sharp.centroid > 1.4 * soft.centroid
