"""Scans as their files hold them, to be denoised: nothing is clamped, and each plane keeps its size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError, UserError
from data_prep.log import logger
from data_prep.partners import LOW_DOSE
from data_prep.readers.dicom import DicomSeries
from data_prep.readers.dicom_slice import read_original
from data_prep.readers.nifti import open_nifti
from data_prep.store import Pair
from data_prep.volume import Numbers, name_slice

MIN_SLICES = 3


@dataclass(frozen=True)
class Original:
    """A scan whose slices are read on demand.

    ``plane``: rows and columns. ``spacing``: mm along (z, y, x). ``affine``: canonical (x, y, z) indices to RAS+ mm.
    ``read(z)``: HU of a slice of any number type, (rows, columns) in canonical order, and which of its voxels are
    padding. ``series``: the images, if they are DICOM. ``labels``: stand for the slices in messages, without a path.
    """

    slices: int
    plane: tuple[int, int]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]
    read: Callable[[int], tuple[Numbers, NDArray[np.bool_]]]
    series: DicomSeries | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.slices < MIN_SLICES:
            raise ScanError(f"the scan has {self.slices} slices, wanted at least {MIN_SLICES}")

    def name_slice(self, z: int) -> str:
        """Return what stands for a slice in messages."""
        return name_slice(z, self.slices, self.labels)


def dicom_original(series: DicomSeries) -> Original:
    """Return the original of a CT series.

    Raises:
        ScanError: it has too few slices.
    """
    rows, columns = series.slices[0].frame.shape

    def read(z: int) -> tuple[Numbers, NDArray[np.bool_]]:
        hu, padding = (series.grid.to_canonical(plane.T[..., None])[0] for plane in read_original(series.slices[z]))
        return hu, padding

    plane = series.grid.to_canonical(np.empty((columns, rows, 1), np.bool_)).shape[1:]
    labels = [ct_slice.label for ct_slice in series.slices]
    return Original(
        len(series.slices), (plane[0], plane[1]), series.grid.spacing, series.canonical_affine, read, series, labels
    )


def nifti_original(path: Path) -> Original:
    """Return the original in a NIfTI file; raises as :func:`open_nifti`, and ScanError for too few slices."""
    scan = open_nifti(path)
    assert scan.affine is not None

    def read(z: int) -> tuple[Numbers, NDArray[np.bool_]]:
        (hu,) = scan.planes(z, z + 1)
        return hu, np.zeros(hu.shape, np.bool_)

    rows, columns = scan.planes(0, 1).shape[1:]
    return Original(scan.slices, (rows, columns), scan.spacing, scan.affine, read)


def pair_original(path: Path) -> Original:
    """Return the low dose of a Zarr pair as an original, with a warning if its position was not recorded.

    Raises:
        UserError: it is no pair, it is damaged, or it has several low doses.
    """
    pair = Pair(path)
    if len(pair.partners) > 1:
        arrays = ", ".join(partner.array for partner in pair.partners)
        raise UserError(f"{path} holds several low doses, wanted a pair of one: {arrays}")
    slices, *plane = pair.shape
    z, y, x = pair.provenance["spacing_mm"]

    def read(index: int) -> tuple[Numbers, NDArray[np.bool_]]:
        (hu,) = pair.read(LOW_DOSE, index, index + 1)
        return hu, np.zeros(hu.shape, np.bool_)

    if pair.affine is None:
        logger.warning(
            f"{path} was prepared by a version that did not record its position in the patient: its first voxel is "
            "taken as the origin; prepare the scan again to have it"
        )
    affine = np.diag([-x, -y, z, 1.0]) if pair.affine is None else pair.affine
    return Original(slices, (plane[0], plane[1]), (z, y, x), affine, read)
