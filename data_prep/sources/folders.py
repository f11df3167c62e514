"""A folder of DICOM series or of NIfTI files, whatever its layout."""

import os
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from data_prep.errors import UserError
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import image_files, read_series
from data_prep.readers.nifti import read_nifti
from data_prep.settings import SourceSettings
from data_prep.sources.series import Series


def find_dicom(settings: SourceSettings) -> list[Series]:
    """Each folder at or below ``settings.path`` that holds DICOM images is one series."""
    folders = {Path(parent): image_files(Path(parent)) for parent, _, _ in os.walk(_existing(settings))}
    found = [_dicom_series(settings, folder, files) for folder, files in sorted(folders.items()) if files]
    return _some(found, settings, "DICOM images")


def _dicom_series(settings: SourceSettings, folder: Path, files: list[Path]) -> Series:
    header = _header(files[0])
    patient, uid = str(header.get("PatientID", "") or folder), str(header.get("SeriesInstanceUID", "") or folder)
    subject = patient if settings.keep_ids else f"p-{pseudonym(patient)}"
    return Series(settings.name, subject, f"{subject}-{pseudonym(uid)}", folder, tuple(files), read_series)


def _header(path: Path) -> Dataset:
    """The ids of an image; none where it is broken, which its reader will say."""
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "SeriesInstanceUID"])
    except (InvalidDicomError, EOFError, ValueError, NotImplementedError):
        return Dataset()


def find_nifti(settings: SourceSettings) -> list[Series]:
    """Each ``*.nii`` or ``*.nii.gz`` file at or below ``settings.path`` is one scan and one subject."""
    root = _existing(settings)
    files = (
        [root] if root.is_file() else sorted(p for p in root.rglob("*.nii*") if p.name.endswith((".nii", ".nii.gz")))
    )
    found = [_nifti_series(settings, root, path) for path in files]
    return _some(found, settings, "*.nii or *.nii.gz files")


def _nifti_series(settings: SourceSettings, root: Path, path: Path) -> Series:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    name = stem if settings.keep_ids else f"p-{pseudonym(str(path.relative_to(root.parent)))}"
    return Series(settings.name, name, name, path, (path,), read_nifti)


def _existing(settings: SourceSettings) -> Path:
    if settings.path is None or not settings.path.exists():
        raise UserError(f"data.sources: path {settings.path} of the {settings.kind} source does not exist")
    return settings.path


def _some(found: list[Series], settings: SourceSettings, what: str) -> list[Series]:
    if not found:
        raise UserError(f"data.sources: {settings.path} holds no {what}")
    return found
