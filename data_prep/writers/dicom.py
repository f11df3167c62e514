"""A derived CT series (PS3.3 A.3): the source's patient, study and geometry, other pixels, new UIDs.

Of a DICOM source only listed elements are copied; private elements, overlays and all others are left out.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.valuerep import DSfloat

from data_prep.errors import ScanError
from data_prep.readers.dicom import DicomSeries
from data_prep.writers.dicom_elements import (
    LO_CHARACTERS,
    PERSON,
    SCAN,
    SERIES_ENDING,
    Derivation,
    derive_uid,
    file_meta,
    identify,
    mark_derived,
    mark_padding,
    set_pixels,
    source_reference,
)


class Source(Protocol):
    """The scan from which images are derived."""

    def image(self, z: int) -> Dataset:
        """Return all elements of a slice except its pixels and SOPInstanceUID."""
        ...

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return a canonical slice in the order of the image's rows and columns."""
        ...


class DicomWriter:
    """Writes each slice as a single-frame CT image into ``folder``; stored values are HU, signed 16 bit."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source, self.written = folder, source, 0

    def write(self, hu: NDArray[np.int16]) -> None:
        """Append the next slice from the feet to the head, (rows, columns) in canonical order.

        Raises:
            ScanError: the patient is to be left out, but the images say that text is burnt into them.
        """
        image = self.source.image(self.written)
        image.SOPInstanceUID = derive_uid(image.SeriesInstanceUID, str(self.written))
        set_pixels(image, self.source.as_stored(hu))
        image.file_meta = file_meta(image)
        self.written += 1
        image.save_as(self.folder / f"{self.written:05d}.dcm", enforce_file_format=True)


class FromSeries:
    """A source in DICOM, whose geometry and order of slices stay."""

    def __init__(self, series: DicomSeries, derivation: Derivation) -> None:
        self.series, self.derivation = series, derivation
        self._header = lru_cache(1)(partial(dcmread, stop_before_pixels=True))  # many frames may share one

    def image(self, z: int) -> Dataset:
        """Return the elements that are copied, and those that mark the image as derived.

        Raises:
            ScanError: the patient is to be left out, but the source says that text is burnt into its images.
        """
        ct_slice = self.series.slices[z]
        source = self._header(ct_slice.path)
        frame, image, deidentify = _frame_elements(source, ct_slice.index), Dataset(), self.derivation.deidentify
        if deidentify and frame.get("BurnedInAnnotation") == "YES":
            raise ScanError("text is burnt into the images (BurnedInAnnotation is YES), and would stay in them")
        for name in (*SCAN, *(() if deidentify else PERSON)):
            if name in frame:
                image[name] = frame[name]
        identify(image, frame, self.derivation)
        frame_number = ct_slice.index + 1 if _is_multi_frame(source) else None
        number = frame.get("InstanceNumber") if frame_number is None else frame_number
        image.InstanceNumber = z + 1 if number is None else number
        if not deidentify:
            image.SourceImageSequence = [source_reference(source, frame_number)]
        mark_padding(image, ct_slice.frame)
        mark_derived(image, self.derivation)
        return image

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return a canonical slice in the order of the source's rows and columns."""
        return self.series.grid.to_stored(hu[None])[..., 0].T


class FromGrid:
    """A source that is no DICOM; it becomes a study of its own, of a patient called ``name``.

    ``affine``: canonical (x, y, z) indices to RAS+ mm.
    """

    def __init__(self, name: str, affine: NDArray[np.float64], derivation: Derivation) -> None:
        self.name, self.derivation = name, derivation
        self._lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def image(self, z: int) -> Dataset:
        """Return identity, geometry and the elements that mark the image as derived."""
        image, steps = Dataset(), np.linalg.norm(self._lps[:3, :3], axis=0)
        directions = self._lps[:3, :3] / steps
        image.PatientName = image.PatientID = self.name[:LO_CHARACTERS]
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
            derive_uid(kind, self.name, self.derivation.recipe) for kind in ("study", "series", "frame of reference")
        )
        image.SeriesDescription, image.InstanceNumber, image.SeriesNumber = SERIES_ENDING, z + 1, 1
        image.ImagePositionPatient = _decimals(self._lps @ [0, 0, z, 1])[:3]
        image.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
        image.PixelSpacing, image.SpacingBetweenSlices = _decimals(steps[1::-1]), _decimals(steps[2:])[0]
        mark_derived(image, self.derivation)
        return image

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the slice as it is."""
        return hu


def _decimals(numbers: NDArray[np.float64]) -> list[DSfloat]:
    """Return decimal strings of at most 16 characters, as the standard allows."""
    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _frame_elements(source: Dataset, index: int) -> Dataset:
    """Return the elements of a frame: those of its functional groups, and the file's own."""
    if not _is_multi_frame(source):
        return source
    groups = [source.PerFrameFunctionalGroupsSequence[index], *source.get("SharedFunctionalGroupsSequence", [])]
    frame = Dataset()
    for group in groups:
        for element in group:
            for inner in element.value[0] if element.VR == "SQ" and element.value else ():
                frame.setdefault(inner.tag, inner)
    for element in source:
        frame.setdefault(element.tag, element)
    return frame


def _is_multi_frame(source: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" in source
