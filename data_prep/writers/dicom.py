"""A derived CT series (PS3.3 A.3): the source's patient, study and geometry, other pixels, new UIDs.

Of a DICOM source only listed elements are copied; private elements, overlays and all others are left out.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.tag import Tag

from data_prep.errors import ScanError
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import DicomSeries
from data_prep.readers.dicom_file import read_elements
from data_prep.writers.dicom_copy import copy_deidentification, copy_elements, copy_geometry
from data_prep.writers.dicom_elements import (
    IDENTIFIERS,
    MOMENT,
    PERSON,
    SCAN,
    SERIES_ENDING,
    Derivation,
    declare_characters,
    derive_uid,
    file_meta,
    identify,
    mark_derived,
    mark_padding,
    set_pixels,
    source_reference,
)
from data_prep.writers.dicom_source import SourceFrame
from data_prep.writers.dicom_text import format_number, person_name, unique_text, valid_texts

_ID_DIGITS = 8  # of a digest
_ANGLE_TOLERANCE = 1e-4  # of rows and columns, as validators have it


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
        declare_characters(image)
        set_pixels(image, self.source.as_stored(hu))
        image.file_meta = file_meta(image)
        self.written += 1
        encoded = BytesIO()
        image.save_as(encoded, enforce_file_format=True)
        (self.folder / f"{self.written:05d}.dcm").write_bytes(encoded.getvalue())  # pydicom puts its trace into errors


class FromSeries:
    """A source in DICOM, whose geometry and order of slices stay."""

    def __init__(self, series: DicomSeries, derivation: Derivation) -> None:
        self.series, self.derivation = series, derivation
        self._read = lru_cache(1)(partial(read_elements, tags=None))  # many frames may share one

    def image(self, z: int) -> Dataset:
        """Return the elements that are copied, and those that mark the image as derived.

        Raises:
            ScanError: the patient is to be left out, but the source says that text is burnt into its images.
        """
        ct_slice, deidentify, image = self.series.slices[z], self.derivation.deidentify, Dataset()
        source = SourceFrame(self._read(ct_slice.path), ct_slice.index)
        if deidentify and source.text("BurnedInAnnotation").upper() == "YES":
            raise ScanError("text is burnt into the images (BurnedInAnnotation is YES), and would stay in them")
        copy_elements(image, source, (*SCAN, *(() if deidentify else MOMENT)))
        copy_geometry(image, ct_slice.frame)
        if not deidentify:
            copy_elements(image, self._identity, PERSON)
            copy_deidentification(image, self._identity)
        identify(image, self._identity, self.derivation)
        image.InstanceNumber = self._numbers[z]
        references = source_reference(source, ct_slice.index + 1 if source.is_multi_frame else None)
        if references and not deidentify:
            image.SourceImageSequence = references
        mark_padding(image, ct_slice.frame)
        mark_derived(image, self.derivation)
        return image

    @cached_property
    def _identity(self) -> SourceFrame:
        """The image that says best whose the series is: all are of one patient, and some may lack what says so."""
        paths = dict.fromkeys(ct_slice.path for ct_slice in self.series.slices)
        return SourceFrame(read_elements(max(paths, key=_known_identifiers), tags=None), 0)

    @cached_property
    def _numbers(self) -> Sequence[int]:
        """The numbers of the images or frames, if all have one and no two the same; else from 1 on."""
        slices = self.series.slices
        texts = [_number_of(ct_slice.path, ct_slice.index) for ct_slice in slices]
        numbers = [int(text) for text in texts if text]
        return numbers if len({*numbers}) == len(slices) else range(1, len(slices) + 1)

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return a canonical slice in the order of the source's rows and columns."""
        return self.series.grid.to_stored(hu[None])[..., 0].T


def _known_identifiers(path: Path) -> list[bool]:
    image = SourceFrame(read_elements(path, [*map(Tag, IDENTIFIERS)]), 0)
    return [bool(image.text(keyword)) for keyword in IDENTIFIERS]


def _number_of(path: Path, index: int) -> str:
    """Return the number of a frame in its file, or of an image that is alone in its file; empty if it has none."""
    image = SourceFrame(read_elements(path, [Tag("InstanceNumber"), Tag("NumberOfFrames")]), 0)
    if "".join(valid_texts("NumberOfFrames", image.texts("NumberOfFrames"))) not in ("", "0", "1"):
        return str(index + 1)
    return "".join(valid_texts("InstanceNumber", image.texts("InstanceNumber")))


class FromGrid:
    """A source that is no DICOM; it becomes a study of its own, of a patient called ``name``.

    ``affine``: canonical (x, y, z) indices to RAS+ mm.

    Raises:
        ScanError: rows and columns of a slice are not at right angles.
    """

    def __init__(self, name: str, affine: NDArray[np.float64], derivation: Derivation) -> None:
        self.name, self.derivation = name, derivation
        self._lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        across, down = (self._lps[:3, :2] / np.linalg.norm(self._lps[:3, :2], axis=0)).T
        if abs(across @ down) > _ANGLE_TOLERANCE:
            degrees = np.degrees(np.arccos(across @ down))
            raise ScanError(
                f"its rows and columns meet at {degrees:.2f} degrees, in DICOM at 90: write it with --format nifti or "
                "zarr, or resample it"
            )

    def image(self, z: int) -> Dataset:
        """Return identity, geometry and the elements that mark the image as derived."""
        image, steps = Dataset(), np.linalg.norm(self._lps[:3, :3], axis=0)
        directions = self._lps[:3, :3] / steps
        image.PatientName = person_name(re.sub(r"[\^=]", " ", self.name))
        image.PatientID = self._patient_id()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
            derive_uid(kind, self.name, self.derivation.recipe) for kind in ("study", "series", "frame of reference")
        )
        image.SeriesDescription, image.InstanceNumber, image.SeriesNumber = SERIES_ENDING, z + 1, 1
        image.ImagePositionPatient = _decimals(self._lps @ [0, 0, z, 1])[:3]
        image.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
        image.PixelSpacing, image.SpacingBetweenSlices = _decimals(steps[1::-1]), _decimals(steps[2:])[0]
        mark_derived(image, self.derivation)
        return image

    def _patient_id(self) -> str:
        """Return the name and the first digits of the source's digest: many folders hold a file of the same name."""
        derivation = self.derivation
        digest = (pseudonym(derivation.source) if derivation.deidentify else derivation.source)[:_ID_DIGITS]
        return unique_text("PatientID", self.name if digest in self.name else f"{self.name}-{digest}")

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the slice as it is."""
        return hu


def _decimals(numbers: NDArray[np.float64]) -> list[str]:
    return [format_number(number) for number in numbers]
