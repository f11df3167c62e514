"""Writes HU as plain or enhanced DICOM, with names that do not follow the slices' order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

Hu = NDArray[np.int16]
Spacing = tuple[float, float, float]


def write_series(
    folder: Path, hu: Hu, spacing: Spacing, *, patient: str = "Doe^Jane", first: str = "1", **tags: Any
) -> list[Path]:
    """``hu``: (slices, rows, columns), feet to head; returns the files by slice."""
    folder.mkdir(parents=True, exist_ok=True)
    series, order = generate_uid(), np.random.default_rng(1).permutation(len(hu))
    paths = []
    for z, plane in enumerate(hu):
        image = slice_image(plane, spacing, z, series, patient)
        for tag, value in tags.items():
            setattr(image, tag, value)
        path = folder / f"{first}-{order[z]:03d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def change(path: Path, **tags: Any) -> None:
    """Set tags of a file; None deletes."""
    image = dcmread(path)
    for tag, value in tags.items():
        if value is None:
            delattr(image, tag)
        else:
            setattr(image, tag, value)
    image.save_as(path)


def edit(path: Path, edit_image: Callable[[FileDataset], None]) -> None:
    """Change a file by a function."""
    image = dcmread(path)
    edit_image(image)
    image.save_as(path)


def transcode(path: Path, syntax: int) -> None:
    """Compress a file by GDCM."""
    import gdcm  # only here: benchmarks of GPUs write series where it is not installed

    reader, change_syntax, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change_syntax.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change_syntax.SetInput(reader.GetImage())
    assert change_syntax.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change_syntax.GetOutput())
    assert writer.Write()


def write_enhanced(path: Path, hu: Hu, spacing: Spacing) -> None:
    """One multi-frame file; rescale, position and spacing in functional groups alone, frames shuffled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = slice_image(hu[0], spacing, 0, generate_uid(), "Doe^Jane")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(image, name)
    order = np.random.default_rng(2).permutation(len(hu))
    measures = item(PixelSpacing=[spacing[1], spacing[2]], SliceThickness=spacing[0])
    shared = item(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024)],
    )
    positions = [[-180.0, -180.0, round(float(z) * spacing[0], 4)] for z in order]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=position)]) for position in positions
    ]
    image.NumberOfFrames = len(hu)
    image.PixelData = (hu[order].astype(np.int32) + 1024).astype("<u2").tobytes()
    image.save_as(path, enforce_file_format=True)


def item(**values: Any) -> Dataset:
    """Make an item of a sequence."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def slice_image(plane: Hu, spacing: Spacing, z: int, series: str, patient: str) -> FileDataset:
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
