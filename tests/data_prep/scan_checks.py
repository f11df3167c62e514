"""Series of small images, and whether one is a scan: by SimpleITK, and by positions that pydicom reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset

from data_prep.errors import ScanError
from data_prep.readers.dicom import open_series
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.series import Discovery, Series
from tests.data_prep.dicom_series import edit, write_series
from tests.scans import chest

SPACING = (2.5, 0.7, 0.7)
Edit = Callable[[FileDataset, int], None]


def find(*roots: Path, kind: str = "dicom", **fields: Any) -> Discovery:
    return discover([SourceSettings.model_validate({"kind": kind, "path": root, **fields}) for root in roots])


def reasons(discovery: Discovery) -> list[str]:
    return sorted(exclusion.reason for exclusion in discovery.exclusions)


def write(folder: Path, slices: int = 10, edit_slice: Edit | None = None, **tags: Any) -> list[Path]:
    """Write a series of small images; ``edit_slice(image, z)`` changes each before the end."""
    files = write_series(folder, chest(slices, 16), SPACING, **tags)
    for z, path in enumerate(files):
        if edit_slice:
            edit(path, lambda image, z=z: edit_slice(image, z))  # type: ignore[misc]
    return files


def by_position(files: Sequence[Path]) -> list[Path]:
    return sorted(files, key=lambda path: float(dcmread(path).ImagePositionPatient[2]))


def itk_voxels(files: Sequence[Path]) -> NDArray[Any]:
    image = SimpleITK.ReadImage([str(path) for path in by_position(files)])
    voxels: NDArray[Any] = np.maximum(SimpleITK.GetArrayFromImage(image), -1024)
    return voxels


def check_scan(series: Series, files: Sequence[Path], step: float = 2.5) -> None:
    """Check that a series is these files, and reads as SimpleITK reads them."""
    assert series.fault is None
    assert sorted(series.files) == sorted(files)
    scan = open_series(series.files).scan()
    np.testing.assert_array_equal(scan.planes(0, scan.slices), itk_voxels(files))
    assert scan.spacing[0] == pytest.approx(step, abs=1e-3)


def reason(series: Series) -> str:
    """Why a series is no scan, as its source or its reader says."""
    if series.fault:
        return str(series.fault)
    with pytest.raises(ScanError) as error:
        open_series(series.files)
    return str(error.value)


def rotated(image: FileDataset, sine: float) -> None:
    cosine = float(np.sqrt(1 - sine * sine))
    image.ImageOrientationPatient = [f"{c:.8f}" for c in (cosine, sine, 0, -sine, cosine, 0)]


def set_position(image: FileDataset, height: float) -> None:
    image.ImagePositionPatient = [-180, -180, round(height, 4)]


def passed_over(root: Path, count: int) -> str:
    """Return what is said of a source's files that are no images."""
    return f"{root}: files that are no images and are passed over: {count}\n"
