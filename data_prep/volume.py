"""The canonical CT scan: int16 HU, axial, feet to head, 512 x 512."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.plausibility import HuCheck

SIDE = 512
AIR_HU = -1024
LUNG_WINDOW = (-600.0, 1500.0)  # centre, width, HU
CHUNK_SLICES = 32
Numbers = NDArray[Any]
"""HU or stored values, of any number type."""
Fit = Literal["crop", "resample"]


@dataclass(frozen=True)
class CTVolume:
    """A CT scan in memory, in the canonical orientation.

    ``hu``: int16, (slices, 512, 512), index order (z, y, x): z runs from feet to head, y from front to back, x from
    the patient's right to the left (DICOM's LPS). ``spacing``: mm along (z, y, x).
    """

    hu: NDArray[np.int16]
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Acquisition:
    """How a scan was acquired, as far as its files say: ``kvp`` in kV, ``mas`` in mAs, ``thickness`` in mm."""

    kernel: str = ""
    kvp: float | None = None
    mas: float | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class CTScan:
    """An axial CT whose slices are read on demand, so that memory does not grow with its length.

    ``planes(start, stop)`` returns slices in canonical order, HU of any number type, in planes of any size.
    ``spacing``: mm along (z, y, x) of what :meth:`chunks` yields. ``affine``: (x, y, z) indices to RAS+ mm; None where
    its position is not known. ``labels``: stand for the slices in messages, without a path. ``resampled_side``: of
    planes that are resampled to 512 x 512; 0 for those that are padded or cropped.
    """

    slices: int
    spacing: tuple[float, float, float]
    planes: Callable[[int, int], Numbers]
    acquisition: Acquisition = Acquisition()
    affine: NDArray[np.float64] | None = None
    labels: Sequence[str] = ()
    resampled_side: int = 0

    def name_slice(self, z: int) -> str:
        """Return what stands for a slice in messages."""
        return name_slice(z, self.slices, self.labels)

    def chunks(self) -> Iterator[NDArray[np.int16]]:
        """Yield the slices, ``CHUNK_SLICES`` at a time: int16 HU, (n, 512, 512), nothing below -1024.

        Raises:
            ScanError: a slice is broken or holds no HU; after the last chunk, the scan does not.
        """
        check = HuCheck(self.name_slice)
        for start in range(0, self.slices, CHUNK_SLICES):
            hu = self.planes(start, min(start + CHUNK_SLICES, self.slices))
            for z, plane in enumerate(hu, start=start):
                check.add(z, plane)
            yield self._fitted_planes(hu)
        check.finish()

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """Read some slices as :meth:`chunks` does, without checks: int16 HU, (n, 512, 512)."""
        return self._fitted_planes(self.planes(start, stop))

    def _fitted_planes(self, hu: Numbers) -> NDArray[np.int16]:
        planes = _as_int16(hu)
        return _resample(planes, self.resampled_side) if self.resampled_side else fit(planes)

    def load(self) -> CTVolume:
        """Read all slices into memory."""
        hu = np.empty((self.slices, SIDE, SIDE), np.int16)
        for start, chunk in zip(range(0, self.slices, CHUNK_SLICES), self.chunks(), strict=True):
            hu[start : start + CHUNK_SLICES] = chunk
        return CTVolume(hu, self.spacing)

    def middle(self, slices: int) -> "CTScan":
        """Return a scan of that many neighbouring slices in the middle, or of all if there are fewer."""
        first = max(0, (self.slices - slices) // 2)
        return replace(
            self,
            slices=min(slices, self.slices),
            planes=lambda start, stop: self.planes(first + start, first + stop),
            affine=None,
            labels=self.labels[first : first + slices],
        )

    def fitted(self, method: Fit) -> "CTScan":
        """Return the scan for 512 x 512 pixels: unchanged, to be padded or cropped later, or to be resampled."""
        side = max(self.planes(0, 1).shape[1:])
        if method == "crop" or side == SIDE:
            return self
        z, y, x = self.spacing
        scale = side / SIDE
        return replace(self, spacing=(z, y * scale, x * scale), resampled_side=side)

    def affine_of(self, side: int = SIDE) -> NDArray[np.float64] | None:
        """Return the affine of what :meth:`chunks` yields, which is padded or cropped to ``side``, or resampled."""
        if self.affine is None:
            return None
        rows, columns = self.planes(0, 1).shape[1:]
        padded, shift, zoom = self.resampled_side or side, np.eye(4), np.eye(4)
        shift[:2, 3] = [-_padding(columns, padded), -_padding(rows, padded)]
        zoom[[0, 1], [0, 1]], zoom[:2, 3] = padded / side, (padded / side - 1) / 2
        affine: NDArray[np.float64] = self.affine @ shift @ zoom
        return affine


def name_slice(z: int, slices: int, labels: Sequence[str]) -> str:
    """Return the label of a slice, or its number where the slices have no labels."""
    return labels[z] if labels else f"slice {z + 1} of {slices} (from the feet)"


def _as_int16(hu: Numbers) -> NDArray[np.int16]:
    """Round to int16, nothing below -1024."""
    if hu.dtype != np.int16:
        return np.ascontiguousarray(np.clip(np.rint(hu), AIR_HU, 32767).astype(np.int16))
    return np.ascontiguousarray(hu if hu.min() >= AIR_HU else np.maximum(hu, np.int16(AIR_HU)))


def fit(hu: NDArray[np.int16], side: int = SIDE) -> NDArray[np.int16]:
    """Pad with air or crop about the centre to ``side`` x ``side``, without resampling."""
    _, rows, columns = hu.shape
    if (rows, columns) == (side, side):
        return hu
    padding = [(0, 0)] + [((side - n + 1) // 2, (side - n) // 2) if n < side else (0, 0) for n in (rows, columns)]
    hu = np.pad(hu, padding, constant_values=AIR_HU)
    top, left = ((n - side) // 2 for n in hu.shape[1:])
    return np.ascontiguousarray(hu[:, top : top + side, left : left + side])


def _padding(count: int, side: int) -> int:
    """Return how many pixels :func:`fit` puts before ``count`` of them; negative where it cuts some off."""
    return (side - count + 1) // 2 if count < side else -((count - side) // 2)


def _resample(hu: NDArray[np.int16], side: int) -> NDArray[np.int16]:
    """Pad planes to ``side`` x ``side``, and average or interpolate them linearly to 512 x 512."""
    planes = fit(hu, side).astype(np.float32)
    images = (Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for plane in planes)
    return _as_int16(np.stack([np.asarray(image) for image in images]))
