"""What a source lists: series to prepare, and what it sets aside, under names that may leave the reader."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from data_prep.errors import UserError
from data_prep.files import digest_json
from data_prep.sources.kinds import OPENERS

if TYPE_CHECKING:
    from data_prep.volume import CTScan

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "at most 100 letters from a to z or A to Z, digits, '.', '_' and '-', the first a letter or digit"


@dataclass(frozen=True)
class Series:
    """A scan to prepare.

    ``subject`` and ``scan``: public or pseudonymous ids, safe as file names. ``paths``: of its files; ``low_paths``: of
    the measured low-dose partner, slice by slice; empty where the low dose is simulated. ``opener``: name in
    ``OPENERS`` of the function that opens them as a scan. ``stamp``: changes when a file changes. ``fault``: why
    the scan cannot be read, if its source noticed. ``studies``: their pseudonyms.
    ``is_named_by_path``: its id comes from its path below its source, not from a UID. ``is_own_patient``: so does its
    patient's, as nothing tells the patient.
    """

    dataset: str
    subject: str
    scan: str
    paths: tuple[str, ...]
    opener: str
    stamp: str
    low_paths: tuple[str, ...] = ()
    fault: Exception | None = None
    studies: tuple[str, ...] = ()
    is_named_by_path: bool = False
    is_own_patient: bool = False

    def __post_init__(self) -> None:
        check_names(self.dataset, self.subject, self.scan)
        if self.opener not in OPENERS:
            raise UserError(f"{self.opener!r} opens no files")

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Its files; made when they are needed, as a run may have a million."""
        return tuple(map(Path, self.paths))

    @cached_property
    def low_files(self) -> tuple[Path, ...]:
        """Files of the measured low dose."""
        return tuple(map(Path, self.low_paths))

    def open(self, files: tuple[Path, ...]) -> "CTScan":
        """Open its files, or those of the measured low dose, as a scan."""
        scan: CTScan = resolve_name(OPENERS[self.opener])(files)
        return scan

    @property
    def location(self) -> Path:
        """Its file, or the folder of its files: for messages to the user alone."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent


@dataclass(frozen=True)
class Exclusion:
    """A series, or a single file, that a source sets aside. ``reason``: why it is no scan to prepare.

    ``files``: for messages to the user alone.
    """

    dataset: str
    subject: str
    scan: str
    images: int
    reason: str
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        check_names(self.dataset, self.subject, self.scan)

    @property
    def row(self) -> tuple[str, str, str, int, str]:
        """What may leave the reader."""
        return self.dataset, self.subject, self.scan, self.images, self.reason


@dataclass(frozen=True)
class PassedOver:
    """Files of a source that are no images. ``counts``: their number by the reason, which names no file."""

    dataset: str
    counts: Mapping[str, int]

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(self.counts.values())

    @property
    def row(self) -> tuple[str, int, str]:
        """What may leave the reader: all of it."""
        reasons = (f"{reason} ({count})" for reason, count in sorted(self.counts.items()))
        return self.dataset, self.files, ", ".join(reasons)


@dataclass(frozen=True)
class Discovery:
    """The series of a source, what it sets aside, and how many files it passes over, as they are no images."""

    series: list[Series] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


def is_name(name: str) -> bool:
    """Whether a name is safe as a file name."""
    return _SAFE.fullmatch(name) is not None


def check_names(*names: str) -> None:
    """Check that names are safe as file names.

    Raises:
        UserError: a name is empty, too long, or has another character than those allowed.
    """
    for name in names:
        if not is_name(name):
            raise UserError(f"{name!r} cannot be an id, wanted {NAME_RULE}; keep_ids: false shows pseudonyms")


def stamp_of(stats: Iterable[tuple[str, int, int]]) -> str:
    """Return a digest of files: their names, sizes (bytes) and modification times (ns)."""
    return digest_json(sorted(stats))


def stamp_of_file(path: Path) -> tuple[str, int, int]:
    """Return name, size (bytes) and modification time (ns) of one file."""
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns
