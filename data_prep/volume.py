"""The canonical CT volume: int16 HU, axial, feet to head, 512 x 512."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError

SIDE = 512
AIR_HU = -1024
MAX_TILT_DEGREES = 1.0


@dataclass(frozen=True)
class CTVolume:
    """A CT scan in the canonical orientation.

    ``hu``: int16, shape (slices, 512, 512), index order (z, y, x); z runs feet to head, y front to
    back, x from the patient's right to the left (DICOM's LPS). ``spacing``: mm along (z, y, x).
    """

    hu: NDArray[np.int16]
    spacing: tuple[float, float, float]


def canonical(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> CTVolume:
    """Turn voxels (i, j, k) in HU with a RAS+ affine in mm into a :class:`CTVolume`.

    Everything below -1024 HU (padding outside the field of view) becomes -1024. Sides other than
    512 are padded with air or cropped about the centre.

    Raises:
        ScanError: the slices are tilted, not axial, or the values are no HU.
    """
    _check_axis_aligned(affine)
    orientation = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(("L", "P", "S"))
    )
    zyx = np.transpose(nib.orientations.apply_orientation(voxels, orientation), (2, 1, 0))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = (float(steps[np.flatnonzero(orientation[:, 0] == axis)[0]]) for axis in range(3))
    if abs(x - y) > 0.01 * x:
        raise ScanError(f"in-plane spacing {y:.3f} x {x:.3f} mm is not square: no axial series")
    return CTVolume(fit(_as_int16(zyx)), (z, y, x))


def _check_axis_aligned(affine: NDArray[np.float64]) -> None:
    steps = affine[:3, :3]
    if not np.isfinite(steps).all() or np.linalg.matrix_rank(steps) < 3:
        raise ScanError("the voxel-to-patient matrix is singular")
    cosines = np.abs(steps / np.linalg.norm(steps, axis=0)).max(axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
    if tilt > MAX_TILT_DEGREES:
        raise ScanError(f"slices are tilted by {tilt:.1f} degrees, allowed {MAX_TILT_DEGREES}")


def _as_int16(voxels: NDArray[np.generic]) -> NDArray[np.int16]:
    values = np.asarray(voxels)
    if not np.isfinite(values).all():
        raise ScanError("the voxels hold NaN or infinity")
    if values.min() > -200 or values.max() < 0:
        raise ScanError(f"values from {values.min():g} to {values.max():g} are no HU: air or tissue is missing")
    return np.ascontiguousarray(np.clip(np.rint(values), AIR_HU, 32767).astype(np.int16))


def fit(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """Pad with air or crop about the centre to 512 x 512; no resampling."""
    _, rows, columns = hu.shape
    if (rows, columns) == (SIDE, SIDE):
        return hu
    padding = [(0, 0)] + [((SIDE - n + 1) // 2, (SIDE - n) // 2) if n < SIDE else (0, 0) for n in (rows, columns)]
    hu = np.pad(hu, padding, constant_values=AIR_HU)
    top, left = ((n - SIDE) // 2 for n in hu.shape[1:])
    return np.ascontiguousarray(hu[:, top : top + SIDE, left : left + SIDE])
