"""Mayo's measured pairs: TCIA's "LDCT-and-Projection-data" (doi:10.7937/9NPB-2637) and the 2016 challenge.

Full and low dose are told apart by the series' description, by the retriever's ``metadata.csv``, or by a
folder's or file's name; pairs are of one patient, kernel and thickness, matched slice by slice by position.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.errors import UserError
from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.archive import Stack, dose_of
from data_prep.sources.folders import (
    aside,
    dicom_series,
    existing,
    public_or_hidden,
    sorted_stacks,
)
from data_prep.sources.series import Discovery

PUBLIC_ID = r"[CLN]\d{3}"
_COLUMNS = ("Series Description", "File Location")
_SAME_MM = 0.05


def find_mayo(settings: SourceSettings, progress: Progress) -> Discovery:
    """Full-dose series with their low-dose partners; with ``low_dose: simulated`` the full-dose ones alone."""
    stacks, others = sorted_stacks(settings, public_or_hidden(settings, PUBLIC_ID), progress)
    described = _metadata(existing(settings))
    scans = [(stack, _dose(stack, described)) for stack in stacks]
    found = Discovery([], others)
    unknown = [stack for stack, dose in scans if not dose]
    found.exclusions.extend(aside(settings.name, s, "neither full nor low dose by its description") for s in unknown)
    full, low = ([stack for stack, dose in scans if dose == wanted] for wanted in ("full", "low"))
    taken = set()
    for stack in full:
        matched = (stack, None) if settings.uses_simulation else _best_match(stack, low)
        if matched is None:
            found.exclusions.append(
                aside(settings.name, stack, "no low-dose series of its patient, kernel and thickness")
            )
            continue
        found.series.append(dicom_series(settings.name, *matched))
        taken.add(matched[1].scan if matched[1] else "")
    unused = [stack for stack in low if stack.scan not in taken]
    found.exclusions.extend(aside(settings.name, stack, "low dose that is no scan's partner") for stack in unused)
    return found


def _best_match(full: Stack, low: Sequence[Stack]) -> tuple[Stack, Stack] | None:
    """Both with the slices alone that lie at the same positions; of several partners the longest."""
    first = full.first
    alike = [
        other
        for other in low
        if (other.subject, other.first.kernel, other.first.place) == (full.subject, first.kernel, first.place)
        and abs(other.first.thickness - first.thickness) < _SAME_MM
    ]
    matches = [_matched(full, other) for other in alike]
    return max((m for m in matches if m[0].slices > 1), key=lambda match: match[0].slices, default=None)


def _matched(full: Stack, low: Stack) -> tuple[Stack, Stack]:
    heights = np.array([image.height for image in low.images])
    nearest = [int(np.abs(heights - image.height).argmin()) for image in full.images]
    pairs = [
        (image, low.images[i])
        for image, i in zip(full.images, nearest, strict=True)
        if abs(heights[i] - image.height) < _SAME_MM
    ]
    return replace(full, images=tuple(a for a, _ in pairs)), replace(low, images=tuple(b for _, b in pairs))


def _dose(stack: Stack, described: Mapping[tuple[str, ...], str]) -> str:
    path = Path(stack.first.path)
    return stack.first.dose or described.get(path.parent.parts[-2:], "") or dose_of(str(path))


def _metadata(root: Path) -> dict[tuple[str, ...], str]:
    """Dose by the last two folders of a series, from the retriever's ``metadata.csv`` in the root or above it.

    Raises:
        UserError: it lacks a column.
    """
    path = next((p for p in (root / "metadata.csv", root.parent / "metadata.csv") if p.is_file()), None)
    if path is None:
        return {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} lacks the column {' and '.join(missing)} of the retriever's metadata.csv")
        rows = list(reader)
    folders = [tuple(re.split(r"[\\/]+", row[_COLUMNS[1]].strip("\\/ "))[-2:]) for row in rows]
    return {folder: dose_of(row[_COLUMNS[0]]) for folder, row in zip(folders, rows, strict=True)}
