"""Read CT images in DICOM files (PS3.3 A.3 and A.38) as canonical scans."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError
from data_prep.grid import Grid
from data_prep.log import describe_count
from data_prep.plausibility import check_extent, check_slice_distance
from data_prep.readers.dicom_header import Header, read_header
from data_prep.readers.dicom_slice import Slice, read_hu, slices_of
from data_prep.readers.distinctions import different_elements, separate
from data_prep.readers.slice_positions import SAME_POSITION_MM, are_consecutive, count_passes, slice_step
from data_prep.volume import Acquisition, CTScan, Numbers

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
ORIENTATION_TOLERANCE = 1e-4
"""Of direction cosines, between slices of one scan."""
SPACING_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one CT series from the feet to the head. ``affine``: (column, row, slice) to RAS+ mm."""

    slices: Sequence[Slice]
    affine: NDArray[np.float64]
    grid: Grid
    acquisition: Acquisition

    def scan(self) -> CTScan:
        """Return the series as a scan in canonical order; padding and what is below -1024 HU become -1024."""
        number_type = np.int16 if all(ct_slice.frame.rescale.is_integer() for ct_slice in self.slices) else np.float32

        def planes(start: int, stop: int) -> Numbers:
            hu = np.empty((stop - start, *self.slices[0].frame.shape), number_type)
            for plane, ct_slice in zip(hu, self.slices[start:stop], strict=True):
                read_hu(ct_slice, plane)
            return self.grid.to_canonical(hu.transpose(2, 1, 0))

        labels = [ct_slice.label for ct_slice in self.slices]
        return CTScan(len(labels), self.grid.spacing, planes, self.acquisition, self.canonical_affine, labels)

    @property
    def canonical_affine(self) -> NDArray[np.float64]:
        """Affine of canonical (x, y, z) indices to RAS+ mm."""
        rows, columns = self.slices[0].frame.shape
        return self.grid.canonical_affine(self.affine, (columns, rows, len(self.slices)))


def open_dicom(paths: Sequence[Path]) -> CTScan:
    """Open the images of one CT series as a scan; raises as :func:`open_series`.

    The name of this function is recorded in the provenance of each pair.
    """
    return open_series(paths).scan()


def open_series(paths: Sequence[Path]) -> DicomSeries:
    """Open the images of one CT series; slices are ordered by position along their normal.

    Raises:
        ScanError: no image, several series, a missing, doubled or broken slice, or no axial CT.
        OSError: a file cannot be opened.
    """
    labels = _labels(paths)
    headers = [_read_slice_header(path, labels[path]) for path in paths]
    slices = [
        ct_slice
        for path, header in zip(paths, headers, strict=True)
        for ct_slice in slices_of(path, labels[path], header)
    ]
    _check_one_series(headers, slices)
    slices, affine = _ordered(slices)
    grid = Grid.of(affine)
    _check_straight(slices)
    check_extent(grid.spacing, (len(slices), *slices[0].frame.shape))
    return DicomSeries(slices, affine, grid, _acquisition(headers))


def _labels(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what stands for each file in messages: its number by name, which tells no identifier."""
    return {path: f"file {i} of {len(paths)} (by name)" for i, path in enumerate(sorted(paths), start=1)}


def _read_slice_header(path: Path, label: str) -> Header:
    try:
        header = read_header(path)
    except ScanError as error:
        raise ScanError(f"{label}: {error}") from error
    if header.exclusion:
        raise ScanError(f"{label}: {header.exclusion}")
    return header


def _check_one_series(headers: Sequence[Header], slices: Sequence[Slice]) -> None:
    frames = [ct_slice.frame for ct_slice in slices]
    if len(frames) < 2:
        raise ScanError(f"{describe_count(len(frames), 'CT image')}, wanted at least 2 slices")
    series = {header.series for header in headers}
    if len(series) > 1:
        raise ScanError(f"holds {len(series)} series, wanted one")
    _check_alike("image sizes", [frame.shape for frame in frames], 0)
    _check_alike("pixel spacings", [frame.spacing for frame in frames], SPACING_TOLERANCE_MM)
    _check_alike("orientations", [frame.orientation for frame in frames], ORIENTATION_TOLERANCE)
    _check_rescale(slices)


def _check_alike(name: str, variants: Sequence[Sequence[float]], tolerance: float) -> None:
    """Refuse slices of which one differs from the median by more than the tolerance."""
    distinct = np.array(sorted({*map(tuple, variants)}), dtype=np.float64)
    if len(distinct) == 1:
        return
    if (np.abs(distinct - np.median(np.asarray(variants, dtype=np.float64), axis=0)) > tolerance * 1.001).any():
        raise ScanError(f"holds {len(distinct)} {name}, wanted one series of alike slices")


def _check_rescale(slices: Sequence[Slice]) -> None:
    """Refuse a series in which some slices lack an element that the others have."""
    lacking = [ct_slice for ct_slice in slices if ct_slice.frame.rescale.missing]
    names = {ct_slice.frame.rescale.missing for ct_slice in slices}
    if len(names) > 1:
        missing = " and ".join(lacking[0].frame.rescale.missing)
        raise ScanError(f"{lacking[0].label} lacks {missing}, which other slices of its series have")


def _ordered(slices: list[Slice]) -> tuple[list[Slice], NDArray[np.float64]]:
    """Return the slices from the feet to the head, and their RAS+ affine (mm)."""
    frame = slices[0].frame
    row, column = np.asarray(frame.orientation).reshape(2, 3)
    normal = np.cross(row, column)
    if abs(normal[2]) < np.abs(normal[:2]).max():
        raise ScanError("slices are not axial: a reformat or a localizer")
    normal *= np.sign(normal[np.abs(normal).argmax()])
    slices = sorted(slices, key=lambda ct_slice: float(np.asarray(ct_slice.frame.position) @ normal))
    positions = np.array([ct_slice.frame.position for ct_slice in slices])
    heights = (positions @ normal).tolist()
    _check_one_acquisition(slices, heights)
    _check_positions(slices, heights)
    _check_files(slices, heights)
    step = slice_step(heights)
    check_slice_distance("the distance of slices by ImagePositionPatient", step)
    down, right = frame.spacing
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ np.column_stack([row * right, column * down, normal * step])
    affine[:3, 3] = _LPS_TO_RAS @ positions[0]
    return slices, affine


def _check_one_acquisition(slices: Sequence[Slice], heights: Sequence[float]) -> None:
    """Refuse slices that are several stacks, such as the frames of two phases in one file."""
    distinctions = [ct_slice.frame.distinctions for ct_slice in slices]
    stacks = separate(heights, distinctions)
    if len(stacks) > 1:
        names = different_elements(*(distinctions[members[0]] for members, _ in stacks[:2]))
        raise ScanError(f"holds {len(stacks)} stacks that differ in {', '.join(names)}, wanted one")
    if stacks[0][1]:
        raise ScanError(stacks[0][1])
    passes = count_passes(heights, [ct_slice.index for ct_slice in slices])
    if passes > 1:
        raise ScanError(f"its frames run through the slices {passes} times, as if they were {passes} scans")


def _check_positions(slices: Sequence[Slice], heights: Sequence[float]) -> None:
    """Refuse two slices at one position; both are named."""
    for (lower, first), (upper, second) in pairwise(zip(heights, slices, strict=True)):
        if upper - lower < SAME_POSITION_MM:
            raise ScanError(f"two slices lie at {lower:.2f} mm: {first.label} and {second.label}")


def _check_files(slices: Sequence[Slice], heights: Sequence[float]) -> None:
    """Refuse files of several frames that are no parts of one scan, each behind the other."""
    files = defaultdict[Path, list[float]](list)
    for ct_slice, height in zip(slices, heights, strict=True):
        files[ct_slice.path].append(height)
    if not are_consecutive([*files.values()]):
        raise ScanError(f"the frames of its {len(files)} files lie among each other, as if they were several scans")


def _check_straight(slices: Sequence[Slice]) -> None:
    """Refuse slices that are shifted in their plane, as by a table that moves straight past a tilted gantry."""
    positions = np.array([ct_slice.frame.position for ct_slice in slices])
    frame = slices[0].frame
    shift = np.abs((positions - positions[0]) @ np.asarray(frame.orientation).reshape(2, 3).T).max()
    if shift > min(frame.spacing):
        raise ScanError(f"slices are shifted sideways by up to {shift:.1f} mm: a tilted gantry, or no one scan")


def _acquisition(headers: Sequence[Header]) -> Acquisition:
    """Return the acquisition of the first image that tells each part of it, with the median charge of all images."""
    images = [header.acquisition for header in headers]
    charges = [image.mas for image in images if image.mas is not None]
    return Acquisition(
        kernel=next((image.kernel for image in images if image.kernel), ""),
        kvp=next((image.kvp for image in images if image.kvp is not None), None),
        mas=float(np.median(charges)) if charges else None,
        thickness=next((image.thickness for image in images if image.thickness is not None), None),
    )
