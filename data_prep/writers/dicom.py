"""A derived CT series (PS3.3 A.3): the source's patient, study and geometry, other pixels, new UIDs.

What is copied is listed; private elements, overlays and all else are left behind.
"""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import DicomSeries, Slice
from data_prep.readers.dicom_header import Frame

NOT_FOR_DIAGNOSIS = "Not for diagnosis"
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
)  # fmt: skip
_OF_THE_SCAN = (
    "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "PatientPosition", "PositionReferenceIndicator",
    "ScanOptions", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "DistanceSourceToDetector",
    "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight", "RotationDirection", "ExposureTime",
    "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower", "FocalSpots", "ConvolutionKernel",
    "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction",
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip


@dataclass(frozen=True)
class Derivation:
    """What was done: a sentence, and what a change of gives other UIDs. ``deidentify``: without the patient."""

    description: str
    recipe: str
    deidentify: bool = False


class DicomWriter:
    """Writes one single-frame CT image a slice into ``folder``, in the source's own geometry and order.

    Stored values are HU, signed 16 bit.
    """

    def __init__(self, folder: Path, source: DicomSeries, derivation: Derivation) -> None:
        self.folder, self.source, self.derivation, self.written = folder, source, derivation, 0
        self._header = lru_cache(1)(_read_header)  # many frames may share one

    def write(self, hu: NDArray[np.int16]) -> None:
        """Append the next slice from the feet to the head, (rows, columns) in canonical order."""
        item = self.source.slices[self.written]
        image = _derived(self._header(item.path), item, self.derivation)
        image.SOPInstanceUID = _uid(image.SeriesInstanceUID, str(self.written))
        image.InstanceNumber = image.InstanceNumber or self.written + 1
        _put_pixels(image, self.source.grid.turned_back(hu[None])[..., 0].T)
        image.file_meta = _meta(image)
        self.written += 1
        image.save_as(self.folder / f"{self.written:05d}.dcm", enforce_file_format=True)


def _read_header(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


def _derived(source: Dataset, item: Slice, derivation: Derivation) -> Dataset:
    """The source's elements that a derived image keeps, and those that say what it is."""
    deidentify, image = derivation.deidentify, Dataset()
    frame = _of_frame(source, item.index)
    for name in (*_OF_THE_SCAN, *(() if deidentify else _OF_THE_PERSON)):
        if name in frame:
            image[name] = frame[name]
    for name in _ALWAYS:
        if name not in image:
            setattr(image, name, None)
    if "BodyPartExamined" not in image:  # for all that is known it is one of a pair
        image.Laterality = None
    _identify(image, frame, derivation)
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.InstanceNumber = item.index + 1 if _is_multi_frame(source) else frame.get("InstanceNumber")
    image.DerivationDescription = f"{derivation.description}. {NOT_FOR_DIAGNOSIS}."[:_ST]
    image.ImageComments = NOT_FOR_DIAGNOSIS
    image.ContributingEquipmentSequence = [_equipment(derivation)]
    if not deidentify:
        image.SourceImageSequence = [_reference(source, item)]
    if item.frame.padding:
        image.PixelRepresentation = 1  # tells the writer that the padding is signed
        ends = [_stored_hu(item.frame, value) for value in item.frame.padding]
        image.PixelPaddingValue = ends[0]
        if ends[1] != ends[0]:
            image.PixelPaddingRangeLimit = ends[1]
    return image


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
    end = f"denoised, {NOT_FOR_DIAGNOSIS.lower()}"
    image.SeriesDescription = f"{described[: _LO - len(end) - 1]} {end}".strip()
    if deidentify:
        image.PatientID = image.PatientName = f"p-{pseudonym(str(frame.get('PatientID') or series))}"
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "quarterdose: technical elements alone are kept, UIDs are new"
    elif image.SeriesNumber is not None:
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


def _stored_hu(frame: Frame, stored: int) -> int:
    """What a stored value of the source is among those written."""
    return int(np.clip(np.rint(stored * frame.slope + frame.intercept), -32768, 32767))


def _put_pixels(image: Dataset, hu: NDArray[np.int16]) -> None:
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
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
