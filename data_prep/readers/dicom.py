"""Folders of single-frame CT images (DICOM PS3.3 C.7.6.2, C.8.2.1) to canonical volumes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from data_prep.errors import ScanError
from data_prep.volume import CTVolume, canonical

_NEEDED = ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_ALIKE = {
    "SeriesInstanceUID": "series",
    "ImageOrientationPatient": "orientations",
    "PixelSpacing": "pixel spacings",
    "Rows": "image heights",
    "Columns": "image widths",
}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def image_files(folder: Path) -> list[Path]:
    """The files of ``folder`` (not below it) that are DICOM Part 10 files, by name; no DICOMDIR."""
    found = (p for p in folder.iterdir() if p.is_file() and p.name != "DICOMDIR")
    return sorted(p for p in found if _has_preamble(p))


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def read_series(folder: Path) -> CTVolume:
    """Read the one CT series in ``folder``; slices are ordered by position along their normal.

    Raises:
        ScanError: no image, several series, a missing, doubled or broken slice, or no axial CT.
    """
    paths = image_files(folder)
    return _assemble([_read_image(path, f"file {i} of {len(paths)}") for i, path in enumerate(paths, start=1)])


def _read_image(path: Path, place: str) -> Dataset:
    try:
        image = dcmread(path)
    except (InvalidDicomError, EOFError, ValueError, NotImplementedError) as error:
        raise ScanError(f"{place} (by name) is no readable DICOM file ({type(error).__name__})") from error
    missing = [name for name in _NEEDED if name not in image]
    if missing:
        raise ScanError(f"{place} (by name) lacks {', '.join(missing)}")
    return image


def _assemble(images: list[Dataset]) -> CTVolume:
    if len(images) < 2:
        raise ScanError(f"{len(images)} DICOM images, wanted at least 2 slices")
    _check_one_series(images)
    first = images[0]
    row, column = np.asarray(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    images = sorted(images, key=lambda image: _position(image) @ normal)
    step = _slice_step(np.array([_position(image) @ normal for image in images]))
    down, right = (float(v) for v in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ np.column_stack([row * right, column * down, normal * step])
    affine[:3, 3] = _LPS_TO_RAS @ _position(images[0])
    return canonical(np.stack([_hu(image).T for image in images], axis=-1), affine)


def _check_one_series(images: list[Dataset]) -> None:
    for name, what in _ALIKE.items():
        values = {str(image.get(name)) for image in images}
        if len(values) > 1:
            raise ScanError(f"holds {len(values)} {what}, wanted one series of alike slices")
    if str(images[0].get("Modality", "CT")) != "CT":
        raise ScanError(f"modality is {images[0].Modality}, wanted CT")


def _position(image: Dataset) -> NDArray[np.float64]:
    return np.asarray(image.ImagePositionPatient, dtype=np.float64)


def _slice_step(heights: NDArray[np.float64]) -> float:
    """The common distance of sorted slice positions, mm."""
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if (gaps < 0.01).any():
        raise ScanError(f"two slices lie at {heights[:-1][gaps < 0.01][0]:.2f} mm")
    off = np.flatnonzero(np.abs(gaps - step) > 0.02 * step + 0.01)
    if off.size:
        i = int(off[0])
        raise ScanError(
            f"a slice is missing: {gaps[i]:.2f} mm between positions {heights[i]:.2f} and "
            f"{heights[i + 1]:.2f} mm, elsewhere {step:.2f} mm"
        )
    return step


def _hu(image: Dataset) -> NDArray[np.int16]:
    try:
        stored = image.pixel_array
    except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ScanError(
            f"the pixels of slice {image.get('InstanceNumber', '?')} cannot be decoded: {reason}"
        ) from error
    scaled = stored * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
    return np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)
