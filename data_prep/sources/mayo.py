"""Mayo's measured pairs: TCIA's "LDCT-and-Projection-data" (doi:10.7937/9NPB-2637) and the 2016 challenge.

The series' description says which is full and which is low dose; else the retriever's ``metadata.csv`` does, or the
name of a folder or file. A pair is of one patient, kernel and thickness, and of one study where the low dose's has a
full dose; its slices are matched by position.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.errors import UserError
from data_prep.log import logger
from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.folders import choose_stacks, dicom_series, exclude, existing_path, subject_rule
from data_prep.sources.grouping import has_same_grid
from data_prep.sources.images import dose_of
from data_prep.sources.series import Discovery, Exclusion
from data_prep.sources.stacks import Stack

PUBLIC_ID = r"[CLN]\d{3}"
_COLUMNS = ("Series Description", "File Location")
_TOLERANCE_MM = 0.05

_Match = tuple[Stack, Stack | None]  # a full dose and its partner, if it has one


def find_mayo(settings: SourceSettings, progress: Progress) -> Discovery:
    """List full-dose series with their low-dose partners; with ``low_dose: simulated`` without partners."""
    stacks, discovery = choose_stacks(settings, subject_rule(settings, PUBLIC_ID), progress)
    table = _read_metadata(existing_path(settings))
    full, low, unknown = ([stack for stack in stacks if _dose(stack, table) == dose] for dose in ("full", "low", ""))
    studies = {study for stack in full for study in stack.studies}
    matches = [(stack, None) if settings.uses_simulation else _best_match(stack, low, studies) for stack in full]
    pairs = [match for match in matches if match]
    partners = {partner.scan for _, partner in pairs if partner}
    reasons = {
        "neither full nor low dose by its description": unknown,
        "no low-dose series of its patient, kernel and thickness": [
            stack for stack, match in zip(full, matches, strict=True) if not match
        ],
        "low dose that is no scan's partner": [stack for stack in low if stack.scan not in partners],
    }
    discovery.exclusions.extend(
        exclude(settings.name, stack, reason) for reason, group in reasons.items() for stack in group
    )
    discovery.exclusions.extend(_exclude_unpaired(settings.name, (*full, *low), pairs))
    discovery.series.extend(dicom_series(settings.name, *pair) for pair in pairs)
    return discovery


def _exclude_unpaired(dataset: str, stacks: Sequence[Stack], pairs: Sequence[_Match]) -> Iterator[Exclusion]:
    """Yield an exclusion of the images of each stack that are in no pair, while others of it are."""
    parts = [stack for pair in pairs for stack in pair if stack]
    paired, scans = {image.path for part in parts for image in part.images}, {part.scan for part in parts}
    for stack in stacks:
        images = tuple(image for image in stack.images if image.path not in paired)
        if images and stack.scan in scans:
            unpaired = replace(stack, scan=f"{stack.scan}-unpaired", images=images)
            yield exclude(dataset, unpaired, "slices without the other dose at their position")


def _best_match(full: Stack, low: Sequence[Stack], studies: set[str]) -> tuple[Stack, Stack] | None:
    """Return a full dose and its partner, cut to the slices at common positions; of several partners the longest.

    Another examination may lie at the same positions: a partner is of the same study, or of none of those ``studies``
    that have a full dose.
    """
    candidates = [stack for stack in low if _is_candidate(full, stack)]
    local = [stack for stack in candidates if not {*full.studies}.isdisjoint(stack.studies)]
    partners = local or [stack for stack in candidates if studies.isdisjoint(stack.studies)]
    matches = [_match(full, stack) for stack in partners]
    return max((m for m in matches if m[0].slices > 1), key=lambda match: match[0].slices, default=None)


def _is_candidate(full: Stack, low: Stack) -> bool:
    """Whether both are of one patient, kernel, grid and thickness."""
    has_same_kernel = (low.subject, low.kernel) == (full.subject, full.kernel)
    is_as_thick = abs(low.thickness - full.thickness) < _TOLERANCE_MM
    return has_same_kernel and is_as_thick and has_same_grid(full.first, low.first)


def _match(full: Stack, low: Stack) -> tuple[Stack, Stack]:
    """Return both with only the slices of the full dose that have one of the low dose at their position."""
    heights = np.array([image.height for image in low.images])
    nearest = [int(np.abs(heights - image.height).argmin()) for image in full.images]
    pairs = [
        (image, low.images[i])
        for image, i in zip(full.images, nearest, strict=True)
        if abs(heights[i] - image.height) < _TOLERANCE_MM
    ]
    return replace(full, images=tuple(a for a, _ in pairs)), replace(low, images=tuple(b for _, b in pairs))


def _dose(stack: Stack, table: Mapping[tuple[str, ...], str]) -> str:
    path = Path(stack.first.path)
    return stack.first.dose or table.get(path.parent.parts[-2:], "") or dose_of(str(path))


def _read_metadata(root: Path) -> dict[tuple[str, ...], str]:
    """Read the retriever's ``metadata.csv`` in the root or above it: dose by the last two folders of a series.

    A file of that name above the root may be another program's.

    Raises:
        UserError: the root's own lacks a column, or is no table.
    """
    for path in (root / "metadata.csv", root.parent / "metadata.csv"):
        rows = _read_rows(path) if path.is_file() else []
        missing = [name for name in _COLUMNS if rows and name not in rows[0]]
        if missing and path.parent == root:
            raise UserError(f"{path} lacks the column {' and '.join(missing)} of the retriever's metadata.csv")
        if rows and not missing:
            return dict(_folder_and_dose(row) for row in _complete_rows(path, rows))
    return {}


def _read_rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as handle:
            return list(csv.DictReader(handle))
    except csv.Error as error:
        raise UserError(f"{path} is no table with commas: {error}") from error


def _complete_rows(path: Path, rows: Sequence[Mapping[str, str | None]]) -> list[list[str]]:
    """Return the columns of the rows that have them; a download that was stopped leaves one cut off."""
    columns = [[row[name] or "" for name in _COLUMNS] for row in rows]
    complete = [row for row in columns if all(row)]
    if len(complete) < len(rows):
        logger.warning(f"{path}: lines without {' or '.join(_COLUMNS)} are passed over: {len(rows) - len(complete)}")
    return complete


def _folder_and_dose(row: Sequence[str]) -> tuple[tuple[str, ...], str]:
    description, location = row
    return tuple(re.split(r"[\\/]+", location.strip("\\/ "))[-2:]), dose_of(description)
