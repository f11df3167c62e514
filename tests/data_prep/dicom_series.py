"""Writes HU as a plain DICOM series, with names that do not follow the slices' order."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(
    folder: Path, hu: NDArray[np.int16], spacing: tuple[float, float, float], *, patient: str = "Doe^Jane", **tags: Any
) -> list[Path]:
    """``hu``: (slices, rows, columns), feet to head; returns the files by slice."""
    folder.mkdir(parents=True, exist_ok=True)
    series, order = generate_uid(), np.random.default_rng(1).permutation(len(hu))
    paths = []
    for z, plane in enumerate(hu):
        image = _image(plane, spacing, z, series, patient)
        for tag, value in tags.items():
            setattr(image, tag, value)
        path = folder / f"1-{order[z]:03d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _image(
    plane: NDArray[np.int16], spacing: tuple[float, float, float], z: int, series: str, patient: str
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.Modality, image.SeriesInstanceUID, image.PatientID, image.PatientName = "CT", series, patient, patient
    image.ImagePositionPatient = [-180.0, -180.0, round(z * spacing[0], 4)]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [spacing[1], spacing[2]]
    image.Rows, image.Columns = plane.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
    return image
