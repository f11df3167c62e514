"""BIMCV-COVID19 (Vayá et al. 2020, arXiv:2006.01174): axial CT volumes of a BIDS tree.

X-rays, scouts and volumes whose slices are not axial are set aside.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from pydicom.datadict import keyword_for_tag

from data_prep.errors import ScanError
from data_prep.progress import Progress
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom_values import acquisition_of, exclusion_of
from data_prep.readers.nifti import nifti_image, open_nifti
from data_prep.settings import SourceSettings
from data_prep.sources.folders import DENOISED_REASON, check_not_empty, existing_path, passed_over, subject_rule
from data_prep.sources.nifti_files import (
    NO_IMAGE_NAME,
    PACKED_COPY,
    exclude_files,
    is_denoised,
    is_packed_copy,
    nifti_stem,
)
from data_prep.sources.series import Discovery, Exclusion, Series, stamp_of, stamp_of_file
from data_prep.sources.tree import Entry, list_files
from data_prep.volume import CTScan

PUBLIC_ID = r"sub-S\d+"
_FILE = re.compile(r"((sub-[A-Za-z0-9]+)(?:_[A-Za-z]+-[A-Za-z0-9]+)*)_(ct|cr|dx)\.(nii|nii\.gz|png)", re.IGNORECASE)
_SCOUT_SLICES = 8


def find_bimcv(settings: SourceSettings, progress: Progress) -> Discovery:
    """List each axial CT volume as one series; every other image is set aside with its reason."""
    root = existing_path(settings)
    entries = list_files(root)
    paths = {root / entry.path for entry in entries if not entry.fault}
    files = [(path, match) for path in sorted(paths) if (match := _FILE.fullmatch(path.name))]
    check_not_empty(files, settings, "files named sub-..._ct.nii.gz")
    discovery, subject_of = Discovery(), subject_rule(settings, PUBLIC_ID)
    discovery.exclusions.extend(
        exclude_files(settings.name, root, [entry.path], reason)
        for entry in entries
        if (reason := _entry_reason(entry))
    )
    for number, (path, match) in enumerate(files, start=1):
        subject = subject_of(match[2], path.relative_to(root))
        scan = match[1] if subject == match[2] else f"p-{pseudonym(match[1])}"
        images, reason = (1, PACKED_COPY) if is_packed_copy(path, paths) else _inspect(path, match[3].lower())
        if reason:
            discovery.exclusions.append(
                Exclusion(settings.name, subject, scan + f"_{match[3]}", images, reason, (path,))
            )
        else:
            discovery.series.append(_series(settings.name, subject, scan, path))
        progress(number, len(files), "headers")
    listed = sum(len(series.files) for series in discovery.series) + sum(len(e.files) for e in discovery.exclusions)
    discovery.passed_over.extend(passed_over(settings, {NO_IMAGE_NAME: len(entries) - listed}))
    return discovery


def _entry_reason(entry: Entry) -> str:
    """Why a file is no image of the data set by its name; an empty text for its images and what is no image."""
    if entry.fault:
        return f"file {entry.fault}"
    path = Path(entry.path)
    return "a NIfTI file that is not named sub-..._ct" if nifti_stem(path) and not _FILE.fullmatch(path.name) else ""


def _series(dataset: str, subject: str, scan: str, path: Path) -> Series:
    sidecar = _sidecar(path)
    files = (path, sidecar) if sidecar.is_file() else (path,)
    stamp = stamp_of(map(stamp_of_file, files))
    return Series(dataset, subject, scan, tuple(map(str, files)), "with sidecar", stamp, is_named_by_path=True)


def _inspect(path: Path, suffix: str) -> tuple[int, str]:
    """Return the number of slices of an image, and why it is no axial CT; an empty reason if it is one.

    One that cannot be opened counts as one: its preparation says why, and is tried again.
    """
    if suffix != "ct":
        return 1, f"an X-ray ({suffix}), wanted ct"
    if is_denoised(path):
        return 1, DENOISED_REASON
    try:
        image = nifti_image(path)
        reason = exclusion_of(_read_sidecar(_sidecar(path)))
    except ScanError as error:
        return 0, str(error)
    except OSError:
        return 0, ""
    slices = int(image.shape[2])
    axis = nib.orientations.aff2axcodes(image.affine)[2]
    if axis not in ("S", "I"):
        return slices, f"a {'sagittal' if axis in ('L', 'R') else 'coronal'} volume, wanted axial slices"
    return slices, reason or (f"a scout of {slices} slices" if slices < _SCOUT_SLICES else "")


def open_with_sidecar(files: Sequence[Path]) -> CTScan:
    """Open a NIfTI file; its acquisition is read from the JSON file beside it, if there is one."""
    attributes = _read_sidecar(files[1]) if len(files) > 1 else {}
    return open_nifti(files[0], acquisition_of(attributes.get))


def _sidecar(path: Path) -> Path:
    return path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.IGNORECASE))


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Return the DICOM values of a JSON file by keyword; empty if there is no file.

    The file has them by keyword, or by tag as in DICOM's JSON model (PS3.18 F).

    Raises:
        ScanError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ScanError("the JSON file beside it is broken") from error
    if not isinstance(values, dict):
        raise ScanError("the JSON file beside it holds no object")
    return {_keyword(key): value.get("Value") if isinstance(value, Mapping) else value for key, value in values.items()}


def _keyword(key: str) -> str:
    return keyword_for_tag(int(key, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", key) else key
