"""Who is trained on and who is held out: by patient, or by slabs when there are too few patients."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_prep.errors import UserError
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
    """The segments of each part. ``by``: ``patients``, or ``slabs`` of the same patients."""

    by: Literal["patients", "slabs"]
    parts: dict[Part, list[Segment]]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Split":
        """The inverse of :meth:`to_json`."""
        return cls(values["by"], {part: [Segment(**s) for s in found] for part, found in values["parts"].items()})


def split(scans: Sequence[dict[str, Any]], settings: SplitSettings, least: int) -> Split:
    """Split manifest rows (``dataset, scan, subject, slices``), each of at least ``least`` slices.

    Each patient's seeded hash is a number from 0 to 1: below ``test`` is tested on, the next ``validation`` is
    validated on. So a patient stays in a part when others come or go, unless a part would be empty: then whoever
    is nearest moves. With fewer than three patients each scan is cut into slabs with ``gap`` slices between them.

    Raises:
        UserError: a scan has too few slices for slabs of ``least`` slices.
    """
    patients = _patients({row["subject"] for row in scans})
    places = sorted((_place(settings.seed, patient), patient) for patient in {*patients.values()})
    if len(places) < MIN_PATIENTS:
        return Split("slabs", _slabs(scans, settings, least))
    held_out = settings.test + settings.validation
    test = min(max(1, sum(place < settings.test for place, _ in places)), len(places) - 2)
    rest = min(max(test + 1, sum(place < held_out for place, _ in places)), len(places) - 1)
    ordered = [patient for _, patient in places]
    groups: dict[Part, list[str]] = {
        "test": ordered[:test],
        "validation": ordered[test:rest],
        "train": ordered[rest:],
    }
    parts = {part: [_whole(r) for r in scans if patients[r["subject"]] in of] for part, of in groups.items()}
    return Split("patients", parts)


def _patients(subjects: Collection[str]) -> dict[str, str]:
    """The patient of each subject: one data set may hide an id that another shows."""
    hidden = {f"p-{pseudonym(subject)}": subject for subject in subjects}
    return {subject: hidden.get(subject, subject) for subject in subjects}


def _place(seed: int, patient: str) -> float:
    return int(hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()[:13], 16) / 16**13


def _whole(row: dict[str, Any]) -> Segment:
    return Segment(row["dataset"], row["scan"], 0, int(row["slices"]))


def _slabs(scans: Sequence[dict[str, Any]], settings: SplitSettings, least: int) -> dict[Part, list[Segment]]:
    """From the feet: validation, test, train, so that a chest scan is tested on lungs."""
    parts: dict[Part, list[Segment]] = {"validation": [], "test": [], "train": []}
    for row in scans:
        usable = int(row["slices"]) - 2 * settings.gap
        validation, test = (round(share * usable) for share in (settings.validation, settings.test))
        lengths: dict[Part, int] = {"validation": validation, "test": test, "train": usable - validation - test}
        short = [f"{length} to {part}" for part, length in lengths.items() if length < least]
        if short:
            raise UserError(
                f"scan {row['scan']} has {row['slices']} slices; data.split leaves {' and '.join(short)}, "
                f"but a volume takes {least}"
            )
        start = 0
        for part, length in lengths.items():
            parts[part].append(Segment(row["dataset"], row["scan"], start, start + length))
            start += length + settings.gap
    return parts
