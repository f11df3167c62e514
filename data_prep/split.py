"""Split scans into training, validation and test: by patient, or by slabs if there are too few patients."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_prep.errors import UserError
from data_prep.manifest import DIGEST
from data_prep.partners import FULL_DOSE
from data_prep.pseudonym import pseudonym
from data_prep.settings import SplitSettings

Part = Literal["train", "validation", "test"]
MIN_PATIENTS = 3


@dataclass(frozen=True)
class Segment:
    """Slices ``start`` to ``stop`` of one pair."""

    dataset: str
    scan: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Split:
    """The segments of each part; ``by``: whole ``patients``, or ``slabs`` of the same patients."""

    by: Literal["patients", "slabs"]
    parts: dict[Part, list[Segment]]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Split":
        """Return the split that :meth:`to_json` wrote."""
        parts = {part: [Segment(**segment) for segment in segments] for part, segments in content["parts"].items()}
        return cls(content["by"], parts)


def split(scans: Sequence[dict[str, Any]], settings: SplitSettings, min_slices: int) -> Split:
    """Split manifest rows (``dataset, scan, subject, slices``), each of at least ``min_slices`` slices.

    Rows may have ``studies`` and the digest of the full dose: subjects who share one count as one patient, so that
    neither a study nor the copies of a scan are parted.

    A seeded hash gives each patient a number from 0 to 1. The numbers below ``settings.test`` are the test part, the
    next ones, as many as ``settings.validation`` says, the validation part. So a patient stays in a part when others
    are added or removed. If a part would be empty, the patient with the nearest number moves to it. With fewer than
    three patients each scan is cut into slabs, with ``settings.gap`` slices between them.

    Raises:
        UserError: there is no scan, or one has too few slices for slabs of ``min_slices`` slices.
    """
    if not scans:
        raise UserError(f"no scan has the {min_slices} slices that a volume of the study takes")
    patients = patients_of(scans)
    numbered = sorted((_number(settings.seed, patient), patient) for patient in {*patients.values()})
    if len(numbered) < MIN_PATIENTS:
        return Split("slabs", _slabs(scans, settings, min_slices))
    held_out = settings.test + settings.validation
    test = min(max(1, sum(number < settings.test for number, _ in numbered)), len(numbered) - 2)
    train = min(max(test + 1, sum(number < held_out for number, _ in numbered)), len(numbered) - 1)
    ordered = [patient for _, patient in numbered]
    groups: dict[Part, list[str]] = {
        "test": ordered[:test],
        "validation": ordered[test:train],
        "train": ordered[train:],
    }
    parts = {
        part: [_full_scan(row) for row in scans if patients[row["subject"]] in group] for part, group in groups.items()
    }
    return Split("patients", parts)


def patients_of(scans: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the patient of each subject of some rows.

    One data set may hide an id that another data set shows. A study has one patient, whatever ids its series have, and
    so have full doses that are equal in all voxels: copies of a scan under other names or ids.
    """
    subjects = {row["subject"] for row in scans}
    hidden = {f"p-{pseudonym(subject)}": subject for subject in subjects}
    patients = {subject: hidden.get(subject, subject) for subject in subjects}
    sharing = defaultdict[str, set[str]](set)
    for row in scans:
        for mark in (*row.get("studies", ()), row.get(f"{DIGEST}{FULL_DOSE}")):
            if mark:
                sharing[mark].add(row["subject"])
    for members in sharing.values():
        joined = {patients[subject] for subject in members}
        if len(joined) > 1:
            patients = {subject: min(joined) if p in joined else p for subject, p in patients.items()}
    return patients


def _number(seed: int, patient: str) -> float:
    return int(hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()[:13], 16) / 16**13


def _full_scan(row: dict[str, Any]) -> Segment:
    return Segment(row["dataset"], row["scan"], 0, int(row["slices"]))


def _slabs(scans: Sequence[dict[str, Any]], settings: SplitSettings, min_slices: int) -> dict[Part, list[Segment]]:
    """Cut each scan from the feet into validation, test and train, so that a chest scan is tested on lungs."""
    parts: dict[Part, list[Segment]] = {"validation": [], "test": [], "train": []}
    for row in scans:
        usable = int(row["slices"]) - 2 * settings.gap
        validation, test = (round(share * usable) for share in (settings.validation, settings.test))
        lengths: dict[Part, int] = {"validation": validation, "test": test, "train": usable - validation - test}
        short = [f"{length} to {part}" for part, length in lengths.items() if length < min_slices]
        if short:
            raise UserError(
                f"scan {row['scan']} has {row['slices']} slices; data.split leaves {' and '.join(short)}, "
                f"but a volume takes {min_slices}"
            )
        start = 0
        for part, length in lengths.items():
            parts[part].append(Segment(row["dataset"], row["scan"], start, start + length))
            start += length + settings.gap
    return parts
