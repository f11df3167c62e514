"""One series on disk, known by names that may leave the reader."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import digest_json
from data_prep.volume import CTVolume

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Series:
    """A scan to prepare. ``subject`` and ``scan`` are public or pseudonymous ids, safe as file names."""

    dataset: str
    subject: str
    scan: str
    path: Path
    files: tuple[Path, ...]
    read: Callable[[Path], CTVolume]

    def __post_init__(self) -> None:
        for name in (self.dataset, self.subject, self.scan):
            if not _SAFE.fullmatch(name):
                raise UserError(f"{name!r} cannot be an id: letters, digits, '.', '_' and '-' are allowed")

    def fingerprint(self) -> str:
        """Digest of the name, bytes and modification time (ns) of each file: changes when the source does."""
        stats = [(path.name, path.stat()) for path in self.files]
        return digest_json([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
