"""A folder of DICOM series or of NIfTI files, whatever its layout."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_prep.errors import UserError
from data_prep.progress import Progress
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import open_dicom
from data_prep.readers.nifti import open_nifti
from data_prep.settings import SourceSettings
from data_prep.sources.archive import Stack, Subject, find_stacks
from data_prep.sources.series import Discovery, Exclusion, Series, stamp_of, stamp_of_file
from data_prep.volume import CTScan


def find_dicom(settings: SourceSettings, progress: Progress) -> Discovery:
    """Each CT series at or below ``settings.path``; what is no CT is set aside."""
    scans, others = sorted_stacks(settings, kept_id if settings.has_public_ids else hidden_id, progress)
    return Discovery([dicom_series(settings.name, stack) for stack in scans], others)


def sorted_stacks(
    settings: SourceSettings, subject_of: Subject, progress: Progress
) -> tuple[list[Stack], list[Exclusion]]:
    """The stacks of a source that it asks for, and the others, each with its reason.

    Raises:
        UserError: the folder is missing or holds no DICOM file.
    """
    rule = f"{settings.kind}, ids {'kept' if settings.has_public_ids else 'hidden'}"
    stacks = find_stacks(existing(settings), subject_of, rule, progress)
    check_some(stacks, settings, "DICOM images")
    reasons = [(stack, _reason(settings, stack)) for stack in stacks]
    others = [aside(settings.name, stack, reason) for stack, reason in reasons if reason]
    return [stack for stack, reason in reasons if not reason], others


def _reason(settings: SourceSettings, stack: Stack) -> str:
    """Why a stack is no scan that the source asks for, or nothing."""
    first, kernel, thickness = stack.first, settings.kernel, settings.thickness_mm
    if first.aside:
        return first.aside
    if stack.slices < 2:
        return "a single slice"
    if kernel and first.kernel != kernel:
        return f"kernel {first.kernel or 'unknown'}, wanted {kernel}"
    if thickness and abs(first.thickness - thickness) > 0.01:
        return f"{first.thickness:g} mm thick slices, wanted {thickness:g} mm"
    return ""


def aside(dataset: str, stack: Stack, reason: str) -> Exclusion:
    """A stack set aside."""
    return Exclusion(dataset, stack.subject, stack.scan, stack.slices, reason)


def dicom_series(dataset: str, stack: Stack, low: Stack | None = None) -> Series:
    """A stack as a series to prepare, with its measured low-dose partner if it has one."""
    images = [*stack.images, *(low.images if low else ())]
    fault = stack.fault or (low.fault if low else None)
    stamp = stamp_of((image.path, image.size, image.time) for image in images)
    low_files = low.paths if low else ()
    return Series(dataset, stack.subject, stack.scan, stack.paths, open_dicom, stamp, low_files, fault)


def hidden_id(patient: str, path: Path) -> str:
    """A pseudonym of PatientID, or of the folder where there is none."""
    return f"p-{pseudonym(patient or str(path.parent))}"


def kept_id(patient: str, path: Path) -> str:
    """PatientID itself; a pseudonym of the folder where there is none."""
    return patient or hidden_id(patient, path)


def public_id(pattern: str, patient: str, path: Path) -> str:
    """PatientID or a folder's name, whichever looks like the data set's public ids; else a pseudonym."""
    public = next((name for name in (patient, *path.parts) if re.fullmatch(pattern, name)), "")
    return public or hidden_id(patient, path)


def public_or_hidden(settings: SourceSettings, pattern: str) -> Subject:
    """The ids of a public data set, unless they are to be hidden."""
    return partial(public_id, pattern) if settings.has_public_ids else hidden_id


def find_nifti(settings: SourceSettings, progress: Progress) -> Discovery:
    """Each ``*.nii`` or ``*.nii.gz`` file at or below ``settings.path`` is one scan.

    Its subject is the BIDS entity ``sub-...`` of its name; without one it is its own subject.
    """
    root = existing(settings)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*.nii*") if nifti_stem(p))
    found = [_nifti_series(settings, path if path == root else path.relative_to(root), path) for path in files]
    check_some(found, settings, "*.nii or *.nii.gz files")
    return Discovery(found)


def nifti_stem(path: Path) -> str:
    """The name without ``.nii`` or ``.nii.gz``; nothing for other files."""
    match = re.fullmatch(r"([^.].*?)\.nii(\.gz)?", path.name)
    return match[1] if match else ""


def _nifti_series(settings: SourceSettings, below: Path, path: Path) -> Series:
    stem, entity = nifti_stem(path), re.match(r"(sub-[A-Za-z0-9]+)(?=[_.])", path.name)
    subject = entity[1] if entity else stem if settings.has_public_ids else str(below)
    if not settings.has_public_ids:
        subject, stem = f"p-{pseudonym(subject)}", f"p-{pseudonym(str(below))}"
    return Series(settings.name, subject, stem, (path,), open_first, stamp_of([stamp_of_file(path)]))


def open_first(files: Sequence[Path]) -> CTScan:
    """Open a series that is one NIfTI file."""
    return open_nifti(files[0])


def existing(settings: SourceSettings) -> Path:
    """The source's folder or file."""
    if settings.path is None or not settings.path.exists():
        raise UserError(f"data.sources: path {settings.path} of the {settings.kind} source does not exist")
    return settings.path


def check_some(found: Sequence[object], settings: SourceSettings, what: str) -> None:
    """Refuse a source that holds nothing."""
    if not found:
        raise UserError(f"data.sources: {settings.path} holds no {what}")
