"""A derived CT series (PS3.3 A.3): the source's patient, study and geometry, other pixels, new UIDs.

Of a DICOM source, what is copied is listed; private elements, overlays and all else are left behind.
"""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from data_prep.errors import ScanError
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import DicomSeries, Slice
from data_prep.readers.dicom_header import Frame

NOT_FOR_DIAGNOSIS = "Not for diagnosis"
_ENDING = f"denoised, {NOT_FOR_DIAGNOSIS.lower()}"
_SERIES_NUMBERS_ON = 1000  # from the source's number to that of the derived series
_LO, _ST = 64, 1024  # characters that an element of this VR may hold (PS3.5, 6.2)

# what must be there, if only empty (type 2)
_ALWAYS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "SeriesNumber", "PositionReferenceIndicator", "Manufacturer", "KVP",
    "AcquisitionNumber", "SliceThickness", "PatientPosition",
)  # fmt: skip
_OF_THE_PERSON = (
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "PatientSize", "PatientWeight", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "StudyDescription", "InstitutionName", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentDate", "ContentTime", "ProtocolName", "StationName", "SoftwareVersions",
    "ContrastBolusAgent", "PatientIdentityRemoved", "DeidentificationMethod", "SeriesNumber", "AcquisitionNumber",
    "WindowCenterWidthExplanation",
)  # fmt: skip
_OF_THE_SCAN = (
    "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "PatientPosition", "PositionReferenceIndicator",
    "ScanOptions", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "DistanceSourceToDetector",
    "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight", "RotationDirection", "ExposureTime",
    "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower", "FocalSpots", "ConvolutionKernel",
    "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip


@dataclass(frozen=True)
class Derivation:
    """What was done: a sentence, and what a change of gives other UIDs. ``deidentify``: without the patient."""

    description: str
    recipe: str
    deidentify: bool = False


class Source(Protocol):
    """What the derived images are made for."""

    def image(self, z: int) -> Dataset:
        """All of a slice's elements but its pixels and SOPInstanceUID."""
        ...

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """A canonical slice turned as the image holds it."""
        ...


class DicomWriter:
    """Writes one single-frame CT image a slice into ``folder``; stored values are HU, signed 16 bit."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source, self.written = folder, source, 0

    def write(self, hu: NDArray[np.int16]) -> None:
        """Append the next slice from the feet to the head, (rows, columns) in canonical order.

        Raises:
            ScanError: the patient is to be left out, but the images say that text is burnt into them.
        """
        image = self.source.image(self.written)
        image.SOPInstanceUID = _uid(image.SeriesInstanceUID, str(self.written))
        _put_pixels(image, self.source.as_stored(hu))
        image.file_meta = _meta(image)
        self.written += 1
        image.save_as(self.folder / f"{self.written:05d}.dcm", enforce_file_format=True)


class FromSeries:
    """A source that is DICOM: its own geometry and order stay."""

    def __init__(self, series: DicomSeries, derivation: Derivation) -> None:
        self.series, self.derivation = series, derivation
        self._header = lru_cache(1)(partial(dcmread, stop_before_pixels=True))  # many frames may share one

    def image(self, z: int) -> Dataset:
        """The elements that are kept, and those that say what it is.

        Raises:
            ScanError: the patient is to be left out, but the source says that text is burnt into its images.
        """
        item = self.series.slices[z]
        source = self._header(item.path)
        frame, image = _of_frame(source, item.index), Dataset()
        if self.derivation.deidentify and frame.get("BurnedInAnnotation") == "YES":
            raise ScanError("text is burnt into the images (BurnedInAnnotation is YES), and would stay in them")
        for name in (*_OF_THE_SCAN, *(() if self.derivation.deidentify else _OF_THE_PERSON)):
            if name in frame:
                image[name] = frame[name]
        _identify(image, frame, self.derivation)
        number = item.index + 1 if _is_multi_frame(source) else frame.get("InstanceNumber")
        image.InstanceNumber = z + 1 if number is None else number
        if not self.derivation.deidentify:
            image.SourceImageSequence = [_reference(source, item)]
        _mark_padding(image, item.frame)
        return _described(image, self.derivation)

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """As the source's rows and columns run."""
        return self.series.grid.turned_back(hu[None])[..., 0].T


class FromGrid:
    """A source that is no DICOM: a study of its own, of a patient called ``name``.

    ``affine``: canonical (x, y, z) indices to RAS+ mm.
    """

    def __init__(self, name: str, affine: NDArray[np.float64], derivation: Derivation) -> None:
        self.name, self.derivation = name, derivation
        self._lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def image(self, z: int) -> Dataset:
        """Identity and geometry."""
        image, steps = Dataset(), np.linalg.norm(self._lps[:3, :3], axis=0)
        directions = self._lps[:3, :3] / steps
        image.PatientName = image.PatientID = self.name[:_LO]
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (
            _uid(kind, self.name, self.derivation.recipe) for kind in ("study", "series", "frame of reference")
        )
        image.SeriesDescription, image.InstanceNumber, image.SeriesNumber = _ENDING, z + 1, 1
        image.ImagePositionPatient = _decimals(self._lps @ [0, 0, z, 1])[:3]
        image.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
        image.PixelSpacing, image.SpacingBetweenSlices = _decimals(steps[1::-1]), _decimals(steps[2:])[0]
        return _described(image, self.derivation)

    def as_stored(self, hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """As it is."""
        return hu


def _decimals(values: NDArray[np.float64]) -> list[DSfloat]:
    """Each in the 16 characters that a decimal string may have."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _described(image: Dataset, derivation: Derivation) -> Dataset:
    """With what every derived image has."""
    for name in _ALWAYS:
        if name not in image:
            setattr(image, name, None)
    if "BodyPartExamined" not in image:  # for all that is known it is one of a pair
        image.Laterality = None
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.DerivationDescription = f"{derivation.description}. {NOT_FOR_DIAGNOSIS}."[:_ST]
    image.ImageComments = NOT_FOR_DIAGNOSIS
    image.ContributingEquipmentSequence = [_equipment(derivation)]
    return image


def _mark_padding(image: Dataset, frame: Frame) -> None:
    """The source's padding values among those written."""
    if frame.padding is None:
        return
    image.PixelRepresentation = 1  # tells pydicom that the padding is signed
    hu = np.clip(np.rint(np.array(frame.padding) * frame.slope + frame.intercept), -32768, 32767).astype(int).tolist()
    image.PixelPaddingValue = hu[0]
    if hu[1] != hu[0]:
        image.PixelPaddingRangeLimit = hu[1]


def _of_frame(source: Dataset, index: int) -> Dataset:
    """The elements of a frame, those of its functional groups beside the file's own."""
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


def _identify(image: Dataset, frame: Dataset, derivation: Derivation) -> None:
    """UIDs, and what a person reads first."""
    deidentify = derivation.deidentify
    own: Callable[[str], str] = (lambda uid: _uid(pseudonym(uid))) if deidentify else (lambda uid: uid)
    series = str(frame.get("SeriesInstanceUID") or "")
    image.StudyInstanceUID = own(str(frame.get("StudyInstanceUID") or _uid("study", series)))
    image.FrameOfReferenceUID = own(str(frame.get("FrameOfReferenceUID") or _uid("frame of reference", series)))
    image.SeriesInstanceUID = _uid(own(series), derivation.recipe, str(deidentify))
    described = "" if deidentify else str(frame.get("SeriesDescription") or "")
    image.SeriesDescription = f"{described[: _LO - len(_ENDING) - 1]} {_ENDING}".strip()
    if deidentify:
        image.PatientID = image.PatientName = f"p-{pseudonym(str(frame.get('PatientID') or series))}"
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "quarterdose: technical elements alone are kept, UIDs are new"
    elif image.get("SeriesNumber") is not None:
        image.SeriesNumber = int(image.SeriesNumber) + _SERIES_NUMBERS_ON


def _reference(source: Dataset, item: Slice) -> Dataset:
    values: dict[str, Any] = {
        "ReferencedSOPClassUID": source.SOPClassUID, "ReferencedSOPInstanceUID": source.SOPInstanceUID,
        "SpatialLocationsPreserved": "YES",
        "PurposeOfReferenceCodeSequence": [_code("121322", "Source image for image processing operation")],
    }  # fmt: skip
    if _is_multi_frame(source):
        values["ReferencedFrameNumber"] = item.index + 1
    return _item(**values)


def _equipment(derivation: Derivation) -> Dataset:
    return _item(
        Manufacturer="Quarterdose", ManufacturerModelName="quarterdose", SoftwareVersions=version("quarterdose"),
        ContributionDescription=derivation.description[:_ST],
        PurposeOfReferenceCodeSequence=[_code("109103", "Modifying Equipment")],
    )  # fmt: skip


def _code(value: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _put_pixels(image: Dataset, hu: NDArray[np.int16]) -> None:
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = "1", "0", "HU"
    image.PixelData = np.ascontiguousarray(hu, "<i2").tobytes()


def _meta(image: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _uid(*parts: str) -> str:
    """The same for the same parts, so that what is made again is the same image (PS3.5, B.2)."""
    number = uuid.UUID(bytes=hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    return f"2.25.{number.int}"
