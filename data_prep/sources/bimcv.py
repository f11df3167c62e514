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
from data_prep.readers.dicom_header import acquisition_of, no_ct
from data_prep.readers.nifti import nifti_image, open_nifti
from data_prep.settings import SourceSettings
from data_prep.sources.folders import check_some, existing, public_or_hidden
from data_prep.sources.series import Discovery, Exclusion, Series, stamp_of, stamp_of_file
from data_prep.volume import CTScan

PUBLIC_ID = r"sub-S\d+"
_FILE = re.compile(r"((sub-[A-Za-z0-9]+)(?:_[A-Za-z]+-[A-Za-z0-9]+)*)_(ct|cr|dx)\.(nii|nii\.gz|png)")
_SCOUT_SLICES = 8


def find_bimcv(settings: SourceSettings, progress: Progress) -> Discovery:
    """One series a CT volume; every other image has its reason."""
    root = existing(settings)
    files = [(path, match) for path in sorted(root.rglob("*.*")) if (match := _FILE.fullmatch(path.name))]
    check_some(files, settings, "files named sub-..._ct.nii.gz")
    found = Discovery()
    for number, (path, match) in enumerate(files, start=1):
        subject = public_or_hidden(settings, PUBLIC_ID)(match[2], path.relative_to(root))
        scan = match[1] if subject == match[2] else f"p-{pseudonym(match[1])}"
        images, reason = _look(path, match[3])
        if reason:
            found.exclusions.append(Exclusion(settings.name, subject, scan + f"_{match[3]}", images, reason))
        else:
            found.series.append(_series(settings.name, subject, scan, path))
        progress(number, len(files), "headers")
    return found


def _series(dataset: str, subject: str, scan: str, path: Path) -> Series:
    sidecar = _sidecar(path)
    files = (path, sidecar) if sidecar.is_file() else (path,)
    return Series(dataset, subject, scan, files, open_with_sidecar, stamp_of(map(stamp_of_file, files)))


def _look(path: Path, suffix: str) -> tuple[int, str]:
    """Slices of an image, and why it is no axial CT, or nothing; a broken file is left to its reader to say."""
    if suffix != "ct":
        return 1, f"an X-ray ({suffix}), wanted ct"
    try:
        image = nifti_image(path)
        reason = no_ct(_described(_sidecar(path)))
    except ScanError as error:
        return 0, str(error)
    slices = int(image.shape[2])
    axis = nib.orientations.aff2axcodes(image.affine)[2]
    if axis not in ("S", "I"):
        return slices, f"a {'sagittal' if axis in ('L', 'R') else 'coronal'} volume, wanted axial slices"
    return slices, reason or (f"a scout of {slices} slices" if slices < _SCOUT_SLICES else "")


def open_with_sidecar(files: Sequence[Path]) -> CTScan:
    """Open a NIfTI file whose acquisition stands in a JSON file."""
    described = _described(files[1]) if len(files) > 1 else {}
    return open_nifti(files[0], acquisition_of(described))


def _sidecar(path: Path) -> Path:
    return path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name))


def _described(path: Path) -> dict[str, Any]:
    """DICOM values by keyword; the file has them by keyword, or by tag as in DICOM's JSON model (PS3.18 F).

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
