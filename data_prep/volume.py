"""The canonical CT scan: int16 HU, axial, feet to head, 512 x 512."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.errors import ScanError

SIDE = 512
AIR_HU = -1024
LUNG_WINDOW = (-600.0, 1500.0)  # centre, width, HU
MAX_TILT_DEGREES = 1.0
CHUNK_SLICES = 32
Numbers = NDArray[Any]
"""HU or stored values of any number type."""
Fit = Literal["crop", "resample"]


@dataclass(frozen=True)
class CTVolume:
    """A CT scan in memory, in the canonical orientation.

    ``hu``: int16, shape (slices, 512, 512), index order (z, y, x); z runs feet to head, y front to
    back, x from the patient's right to the left (DICOM's LPS). ``spacing``: mm along (z, y, x).
    """

    hu: NDArray[np.int16]
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Acquisition:
    """How a scan was made, as far as its files say: tube voltage (kV), charge (mAs), slice thickness (mm)."""

    kernel: str = ""
    kvp: float | None = None
    mas: float | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class Grid:
    """How stored voxels (i, j, k) lie in the patient. ``spacing``: mm along canonical (z, y, x)."""

    orientation: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, affine: NDArray[np.float64]) -> "Grid":
        """The grid of a RAS+ affine in mm.

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

    def turned(self, voxels: Numbers) -> Numbers:
        """A view of (i, j, k) voxels in canonical order (z, y, x)."""
        view: Numbers = nib.orientations.apply_orientation(voxels, self.orientation)
        return view.transpose(2, 1, 0)

    def turned_back(self, voxels: Numbers) -> Numbers:
        """A view of canonical (z, y, x) voxels as they are stored, (i, j, k)."""
        back = np.empty_like(self.orientation)
        for axis, (canonical, flip) in enumerate(self.orientation):
            back[int(canonical)] = axis, flip
        view: Numbers = nib.orientations.apply_orientation(voxels.transpose(2, 1, 0), back)
        return view

    def canonical_affine(self, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Canonical (x, y, z) indices to RAS+ mm, from the affine of (i, j, k) and their number along each axis."""
        turned: NDArray[np.float64] = affine @ nib.orientations.inv_ornt_aff(self.orientation, shape)
        return turned


def _check_axis_aligned(affine: NDArray[np.float64]) -> None:
    steps = affine[:3, :3]
    if not np.isfinite(steps).all() or np.linalg.matrix_rank(steps) < 3:
        raise ScanError("the voxel-to-patient matrix is singular")
    cosines = np.abs(steps / np.linalg.norm(steps, axis=0)).max(axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
    if tilt > MAX_TILT_DEGREES:
        raise ScanError(f"slices are tilted by {tilt:.1f} degrees, allowed {MAX_TILT_DEGREES}")


@dataclass(frozen=True)
class CTScan:
    """An axial CT whose slices are read on demand, so that memory does not grow with its length.

    ``planes(start, stop)`` gives slices in canonical order, HU of any number type and any size in the
    plane; ``spacing``: mm along (z, y, x).
    """

    slices: int
    spacing: tuple[float, float, float]
    planes: Callable[[int, int], Numbers]
    acquisition: Acquisition = Acquisition()

    def chunks(self) -> Iterator[NDArray[np.int16]]:
        """The slices, ``CHUNK_SLICES`` at a time: int16 HU, (n, 512, 512), nothing below -1024.

        Raises:
            ScanError: after the last chunk, if the values are no HU; anywhere, if a slice is broken.
        """
        lowest, highest = np.inf, -np.inf
        for start in range(0, self.slices, CHUNK_SLICES):
            values = self.planes(start, min(start + CHUNK_SLICES, self.slices))
            least, most = float(values.min()), float(values.max())
            if not np.isfinite(least + most):
                raise ScanError("the voxels hold NaN or infinity")
            lowest, highest = min(lowest, least), max(highest, most)
            yield fit(_as_int16(values, least))
        check_hu(lowest, highest)

    def load(self) -> CTVolume:
        """All slices at once."""
        hu = np.empty((self.slices, SIDE, SIDE), np.int16)
        for start, chunk in zip(range(0, self.slices, CHUNK_SLICES), self.chunks(), strict=True):
            hu[start : start + CHUNK_SLICES] = chunk
        return CTVolume(hu, self.spacing)

    def middle(self, slices: int) -> "CTScan":
        """So many neighbouring slices of the middle, or all if there are no more."""
        first = max(0, (self.slices - slices) // 2)
        return replace(
            self, slices=min(slices, self.slices), planes=lambda start, stop: self.planes(first + start, first + stop)
        )

    def fitted(self, how: Fit) -> "CTScan":
        """The scan on a grid of 512 x 512: as it is, to be padded or cropped, or its whole plane resampled."""
        side = max(self.planes(0, 1).shape[1:])
        if how == "crop" or side == SIDE:
            return self
        z, y, x = self.spacing
        spacing = (z, y * side / SIDE, x * side / SIDE)
        return replace(self, spacing=spacing, planes=lambda start, stop: _resampled(self.planes(start, stop), side))


def check_hu(lowest: float, highest: float) -> None:
    """Whether the extremes of a whole scan can be HU.

    Raises:
        ScanError: there is no air, or no tissue.
    """
    if lowest > -200 or highest < 0:
        raise ScanError(f"values from {lowest:g} to {highest:g} are no HU: air or tissue is missing")


def _as_int16(values: Numbers, least: float = -np.inf) -> NDArray[np.int16]:
    """Rounded, air below -1024; ``least``: the lowest of the values, if it is known."""
    if values.dtype != np.int16:
        return np.ascontiguousarray(np.clip(np.rint(values), AIR_HU, 32767).astype(np.int16))
    return np.ascontiguousarray(values if least >= AIR_HU else np.maximum(values, np.int16(AIR_HU)))


def fit(hu: NDArray[np.int16], side: int = SIDE) -> NDArray[np.int16]:
    """Pad with air or crop about the centre to ``side`` x ``side``; no resampling."""
    _, rows, columns = hu.shape
    if (rows, columns) == (side, side):
        return hu
    padding = [(0, 0)] + [((side - n + 1) // 2, (side - n) // 2) if n < side else (0, 0) for n in (rows, columns)]
    hu = np.pad(hu, padding, constant_values=AIR_HU)
    top, left = ((n - side) // 2 for n in hu.shape[1:])
    return np.ascontiguousarray(hu[:, top : top + side, left : left + side])


def _resampled(values: Numbers, side: int) -> Numbers:
    """The whole plane, padded to ``side`` x ``side``, averaged or interpolated linearly to 512 x 512."""
    planes = fit(_as_int16(values), side).astype(np.float32)
    images = (Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for plane in planes)
    return np.stack([np.asarray(image) for image in images])
