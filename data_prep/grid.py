"""Orientation of stored voxels in the patient."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError
from data_prep.volume import Numbers

MAX_TILT_DEGREES = 1.0


@dataclass(frozen=True)
class Grid:
    """Orientation of stored voxels (i, j, k) in the patient; ``spacing``: mm along canonical (z, y, x)."""

    orientation: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> "Grid":
        """Return the grid of a RAS+ affine in mm.

        Raises:
            ScanError: the slices are tilted or sheared, or their pixels are not square.
        """
        _check_axis_aligned(affine)
        orientation = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(("L", "P", "S"))
        )
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        x, y, z = (float(steps[np.flatnonzero(orientation[:, 0] == axis)[0]]) for axis in range(3))
        if abs(x - y) > 0.01 * x:
            raise ScanError(f"in-plane spacing {y:.3f} x {x:.3f} mm is not square: no axial series")
        return cls(orientation, (z, y, x))

    def to_canonical(self, voxels: Numbers) -> Numbers:
        """Return a view of stored voxels (i, j, k) in canonical order (z, y, x)."""
        view: Numbers = nib.orientations.apply_orientation(voxels, self.orientation)
        return view.transpose(2, 1, 0)

    def to_stored(self, voxels: Numbers) -> Numbers:
        """Return a view of canonical voxels (z, y, x) in stored order (i, j, k)."""
        inverse = np.empty_like(self.orientation)
        for axis, (canonical, flip) in enumerate(self.orientation):
            inverse[int(canonical)] = axis, flip
        view: Numbers = nib.orientations.apply_orientation(voxels.transpose(2, 1, 0), inverse)
        return view

    def canonical_affine(self, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the affine of canonical (x, y, z) indices from that of stored ones, whose array has this shape."""
        canonical: NDArray[np.float64] = affine @ nib.orientations.inv_ornt_aff(self.orientation, shape)
        return canonical


def _check_axis_aligned(affine: NDArray[np.float64]) -> None:
    steps = affine[:3, :3]
    if not np.isfinite(steps).all() or np.linalg.matrix_rank(steps) < 3:
        raise ScanError("the voxel-to-patient matrix is singular")
    cosines = np.abs(steps / np.linalg.norm(steps, axis=0)).max(axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
    if tilt > MAX_TILT_DEGREES:
        raise ScanError(f"slices are tilted by {tilt:.1f} degrees, allowed {MAX_TILT_DEGREES}")
