"""Elements of a derived CT image (PS3.3 A.3): what is copied of the source, and what says that it is derived."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom_header import Frame
from data_prep.volume import AIR_HU
from data_prep.writers.dicom_source import SourceFrame
from data_prep.writers.dicom_text import LO_BYTES, ST_BYTES, cut_text, is_uid, valid_texts

NOT_FOR_DIAGNOSIS = "Not for diagnosis"
SERIES_ENDING = f"denoised, {NOT_FOR_DIAGNOSIS.lower()}"
_SERIES_NUMBER_STEP = 1000  # from the source's number to that of the derived series
_MAX_SERIES_NUMBER = 2**31 - 1 - _SERIES_NUMBER_STEP
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_UNPAIRED = frozenset({"ABDOMEN", "ABDOMENPELVIS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "HEAD", "HEADNECK",
                       "HEART", "LIVER", "NECK", "NECKCHEST", "PELVIS", "WHOLEBODY"})  # fmt: skip

# must be present, but may be empty (type 2)
_REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "SeriesNumber", "PositionReferenceIndicator", "Manufacturer", "KVP",
    "AcquisitionNumber", "SliceThickness", "PatientPosition",
)  # fmt: skip
PERSON = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
    "StudyDescription", "InstitutionName", "ProtocolName", "StationName", "SoftwareVersions", "SeriesNumber",
)  # fmt: skip
"""Of a whole series: patient, study, and where it was taken."""
MOMENT = (
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime", "ContrastBolusAgent",
    "AcquisitionNumber", "WindowCenterWidthExplanation",
)  # fmt: skip
"""Of each image, and such as may name the patient."""
IDENTIFIERS = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "SeriesNumber")
"""What tells whose a series is, the most important first; some of its images may lack it."""
SCAN = (
    "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "Laterality", "PatientPosition",
    "PositionReferenceIndicator",
    "ScanOptions", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "DistanceSourceToDetector",
    "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight", "RotationDirection", "ExposureTime",
    "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower", "FocalSpots", "ConvolutionKernel",
    "SliceThickness", "SpacingBetweenSlices", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip


@dataclass(frozen=True)
class Derivation:
    """How images are derived from their source.

    ``description``: a sentence for the reader of an image. ``recipe``: other recipes give other UIDs. ``source``: of
    the source alone, for ids that it lacks. ``deidentify``: leave the patient out.
    """

    description: str
    recipe: str
    source: str
    deidentify: bool = False


def mark_derived(image: Dataset, derivation: Derivation) -> None:
    """Add the elements that every derived image has."""
    for name in _REQUIRED:
        if name not in image:
            setattr(image, name, None)
    is_unpaired = image.get("BodyPartExamined") in _UNPAIRED
    image.Laterality = None if is_unpaired else image.get("Laterality")  # it could be of one of a pair of organs
    if is_unpaired:
        del image.Laterality
    image.SOPClassUID, image.Modality = CTImageStorage, "CT"
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.DerivationDescription = cut_text(f"{derivation.description}. {NOT_FOR_DIAGNOSIS}.", ST_BYTES)
    image.ImageComments = NOT_FOR_DIAGNOSIS
    image.ContributingEquipmentSequence = [_equipment(derivation)]


def identify(image: Dataset, frame: SourceFrame, derivation: Derivation) -> None:
    """Add UIDs, the series' description and number, and a pseudonym if the patient is to be left out."""
    deidentify = derivation.deidentify
    hide: Callable[[str], str] = (lambda uid: derive_uid(pseudonym(uid))) if deidentify else _valid_uid
    series, study = frame.text("SeriesInstanceUID"), frame.text("StudyInstanceUID")
    reference = frame.text("FrameOfReferenceUID")
    if reference in (study, series):  # as some anonymisers write it
        reference = ""
    image.StudyInstanceUID = hide(study or derive_uid("study", series or derivation.source))
    image.FrameOfReferenceUID = hide(reference or derive_uid("frame of reference", series or derivation.source))
    image.SeriesInstanceUID = derive_uid(hide(series), derivation.recipe, str(deidentify))
    description = "" if deidentify else "".join(valid_texts("SeriesDescription", frame.texts("SeriesDescription")))
    image.SeriesDescription = f"{cut_text(description, LO_BYTES - len(SERIES_ENDING) - 1)} {SERIES_ENDING}".strip()
    if deidentify:
        image.PatientID = image.PatientName = f"p-{pseudonym(frame.text('PatientID') or series or derivation.source)}"
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "quarterdose: technical elements alone are kept, UIDs are new"
    elif image.get("SeriesNumber") is not None:
        number = int(image.SeriesNumber)
        image.SeriesNumber = number + (_SERIES_NUMBER_STEP if number <= _MAX_SERIES_NUMBER else 0)


def _valid_uid(uid: str) -> str:
    """Return the UID itself if it is a valid one or none; else one that stands for it."""
    return uid if is_uid(uid) or not uid else derive_uid("invalid", uid)


def declare_characters(image: Dataset) -> None:
    """Declare UTF-8 if a text of the image, at any depth, holds more than ASCII."""
    texts = (str(element.value) for element in image.iterall() if element.VR in _TEXT_VRS)
    if not all(map(str.isascii, texts)):
        image.SpecificCharacterSet = "ISO_IR 192"


def mark_padding(image: Dataset, frame: Frame) -> None:
    """Add the HU that the source's padding values become: air where int16 holds none, else the range that it holds."""
    if frame.padding is None:
        return
    image.PixelRepresentation = 1  # tells pydicom that the padding is signed
    ends = np.rint([frame.rescale.to_hu(end) for end in frame.padding])
    hu = [AIR_HU, AIR_HU] if ends.min() > 32767 else np.clip(ends, -32768, 32767).astype(int).tolist()
    image.PixelPaddingValue = hu[0]
    if hu[1] != hu[0]:
        image.PixelPaddingRangeLimit = hu[1]


def set_pixels(image: Dataset, hu: NDArray[np.int16]) -> None:
    """Add the pixels, whose stored values are HU."""
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = "1", "0", "HU"
    image.PixelData = np.ascontiguousarray(hu, "<i2").tobytes()


def file_meta(image: Dataset) -> FileMetaDataset:
    """Return the file meta information of an image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def source_reference(source: SourceFrame, frame_number: int | None) -> list[Dataset]:
    """Return a reference to the image, or frame of an image, from which another is derived; none if it has no UID."""
    uids = [source.text(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID")]
    if not all(map(is_uid, uids)):
        return []
    elements: dict[str, Any] = {
        "ReferencedSOPClassUID": uids[0], "ReferencedSOPInstanceUID": uids[1], "SpatialLocationsPreserved": "YES",
        "PurposeOfReferenceCodeSequence": [_code("121322", "Source image for image processing operation")],
    }  # fmt: skip
    if frame_number is not None:
        elements["ReferencedFrameNumber"] = frame_number
    return [_sequence_item(**elements)]


def derive_uid(*parts: str) -> str:
    """Return a UID that is the same for the same parts: the same scan denoised again gives the same images.

    It is a UUID in decimal (PS3.5, B.2).
    """
    number = uuid.UUID(bytes=hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()[:16])
    return f"2.25.{number.int}"


def _equipment(derivation: Derivation) -> Dataset:
    return _sequence_item(
        Manufacturer="Quarterdose", ManufacturerModelName="quarterdose", SoftwareVersions=version("quarterdose"),
        ContributionDescription=cut_text(derivation.description, ST_BYTES),
        PurposeOfReferenceCodeSequence=[_code("109103", "Modifying Equipment")],
    )  # fmt: skip


def _code(number: str, meaning: str) -> Dataset:
    return _sequence_item(CodeValue=number, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


def _sequence_item(**elements: Any) -> Dataset:
    item = Dataset()
    for name, element in elements.items():
        setattr(item, name, element)
    return item
