"""A folder of NIfTI files, whatever its layout."""

import os
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from data_prep.errors import ScanError, UserError
from data_prep.outputs import Output
from data_prep.progress import Progress
from data_prep.pseudonym import file_pseudonym, pseudonym
from data_prep.readers.nifti import has_same_content
from data_prep.settings import SourceSettings
from data_prep.sources.file_names import RESOURCE_FORK
from data_prep.sources.folders import DENOISED_REASON, check_not_empty, existing_path, passed_over
from data_prep.sources.series import NAME_RULE, Discovery, Exclusion, Series, is_name, stamp_of, stamp_of_file
from data_prep.sources.tree import Entry, list_files

_OTHER_FORMAT = re.compile(
    r".*(\.(?:nii\.\w+|hdr|img|img\.gz|nrrd|nhdr|mha|mhd|mgz|mgh|nia|dcm|dicom|ima))", re.IGNORECASE | re.DOTALL
)

PACKED_COPY = "a packed copy of the file beside it"
"""Why a file is set aside that :func:`is_packed_copy`."""
NO_IMAGE_NAME = "has no image's name"
"""Why a file is passed over that is not opened."""


def find_nifti(settings: SourceSettings, progress: Progress) -> Discovery:
    """List each ``*.nii`` or ``*.nii.gz`` file at or below ``settings.path`` as one scan.

    Its subject is the BIDS entity ``sub-...`` of its name; without one it is its own subject. Images of other formats,
    and what cannot be looked at, are set aside.
    """
    root = existing_path(settings)
    if root.is_file():
        reason = exclusion_reason(root)
        if reason:
            raise UserError(f"data.sources: {root} is {reason}")
        return Discovery([_nifti_series(settings, root, root)])
    entries = list_files(root)
    reasons = {entry.path: reason for entry in entries if (reason := _entry_reason(root, entry))}
    files = {root / e.path for e in entries if e.path not in reasons and nifti_stem(Path(e.path))}
    copies = {path for path in files if is_packed_copy(path, files)}
    reasons |= {str(path.relative_to(root)): PACKED_COPY for path in copies}
    series = [_nifti_series(settings, path.relative_to(root), path) for path in sorted(files - copies)]
    check_not_empty(series, settings, "*.nii or *.nii.gz files")
    unnamed = len(entries) - len(series) - len(reasons)
    return Discovery(
        series, _exclude_by_folder(settings, root, reasons), passed_over(settings, {NO_IMAGE_NAME: unnamed})
    )


def nifti_stem(path: Path) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``, or an empty text if it has no such ending."""
    match = re.fullmatch(r"([^.].*?)\.nii(\.gz)?", path.name, re.IGNORECASE | re.DOTALL)
    return match[1] if match else ""


def is_packed_copy(path: Path, files: Container[Path]) -> bool:
    """Whether a file is a packed copy of one of the files beside it.

    It is none where they cannot be compared: opening them says why.
    """
    plain = path.with_suffix("")
    with suppress(ScanError, OSError):
        return path.suffix.lower() == ".gz" and plain in files and has_same_content(plain, path)
    return False


def _nifti_series(settings: SourceSettings, below: Path, path: Path) -> Series:
    """The series of one file; ``below``: its path below the source's root."""
    stem, entity = nifti_stem(path), re.match(r"sub-[A-Za-z0-9]+(?=[_.])", path.name)
    subject = entity[0] if entity else stem if settings.has_public_ids else str(below)
    if settings.has_public_ids and not is_name(stem):
        raise UserError(f"{path}: its name cannot be an id: rename it to {NAME_RULE}; or leave keep_ids out")
    if not settings.has_public_ids:
        subject, stem = f"p-{pseudonym(subject)}", f"p-{pseudonym(str(below))}"
    stamp = stamp_of([stamp_of_file(path)])
    return Series(
        settings.name, subject, stem, (str(path),), "first", stamp, is_named_by_path=True, is_own_patient=entity is None
    )


def _entry_reason(root: Path, entry: Entry) -> str:
    return f"file {entry.fault}" if entry.fault else exclusion_reason(root / entry.path)


def _exclude_by_folder(settings: SourceSettings, root: Path, reasons: Mapping[str, str]) -> list[Exclusion]:
    """Return an exclusion for the files of each folder and reason; ``reasons``: by their paths below the root."""
    groups = defaultdict[tuple[str, str], list[str]](list)
    for path, reason in reasons.items():
        groups[os.path.dirname(path), reason].append(path)
    return [exclude_files(settings.name, root, sorted(paths), reason) for (_, reason), paths in sorted(groups.items())]


def exclude_files(dataset: str, root: Path, paths: Sequence[str], reason: str) -> Exclusion:
    """Return the exclusion of files, by their paths below the root, for this reason."""
    return Exclusion(dataset, "unknown", file_pseudonym(paths[0]), len(paths), reason, tuple(root / p for p in paths))


def exclusion_reason(path: Path) -> str:
    """Why an image is not read, by its name and record; empty for a scan in a NIfTI file and for what is no image."""
    name = path.name
    if name.startswith(RESOURCE_FORK):
        return ""
    if nifti_stem(path):
        return DENOISED_REASON if is_denoised(path) else ""
    if name.startswith(".") and nifti_stem(Path(name[1:])):
        return "a hidden file"
    match = _OTHER_FORMAT.fullmatch(name)
    return f"an image of another format ({match[1].lower()}), wanted .nii or .nii.gz" if match else ""


def is_denoised(path: Path) -> bool:
    """Whether this program wrote a file: its record lies beside it."""
    with suppress(UserError):  # what lies beside it, if anything, is no record
        return bool(Output(path).record())
    return False
