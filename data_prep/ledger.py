"""What the program wrote in a folder where a user may also write: only that is replaced."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import digest_plain_file, locked, write_json

FILE = ".quarterdose.json"
LOCK = ".quarterdose.lock"
"""Name of the file beside it that a process which changes it holds locked."""
_FILES, _UNFINISHED = "files", "unfinished"


@dataclass(frozen=True)
class Ledger:
    """The file ``.quarterdose.json`` of ``folder``: SHA-256 of the files there that the program wrote.

    Files are named by patterns of :meth:`Path.glob`. Patterns of a writer that was interrupted are listed too: what
    fits them may be half of its files.
    """

    folder: Path

    def exists(self) -> bool:
        """Return whether the program wrote in this folder."""
        return os.path.lexists(self.folder / FILE)

    def first_stranger(self, patterns: Iterable[str]) -> Path | None:
        """Return the first file of these patterns that the program did not write, or that was changed later.

        Raises:
            UserError: this record itself cannot be read.
        """
        content = self._read()
        unfinished, files = set(self._matches(content[_UNFINISHED])), content[_FILES]
        written = (path for path in self._matches(patterns) if path not in unfinished)
        return next((path for path in written if files.get(self._name(path)) != digest_plain_file(path)), None)

    def check(self, patterns: Iterable[str]) -> None:
        """Check that the files of these patterns, which will be replaced, were written by the program.

        Raises:
            UserError: one was not, or was changed later.
        """
        stranger = self.first_stranger(patterns)
        if stranger:
            raise UserError(
                f"{stranger} was not written by quarterdose, or was changed later, and nothing of yours is replaced: "
                "move it, and run the same command again"
            )

    @contextmanager
    def recording(self, patterns: Sequence[str]) -> Iterator[None]:
        """Record the files of these patterns that the block writes or leaves; also where it raises an exception."""
        with self._changing() as content:
            content[_UNFINISHED] = sorted({*content[_UNFINISHED], *patterns})
        try:
            yield
        finally:
            with self._changing() as content:
                content[_FILES] |= {self._name(path): digest_plain_file(path) for path in self._matches(patterns)}
                content[_UNFINISHED] = [pattern for pattern in content[_UNFINISHED] if pattern not in patterns]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Give the record to be changed, then write it; other processes wait to change it."""
        with locked(self.folder / LOCK):
            content = self._read()
            yield content
            write_json(self.folder / FILE, content)

    def _read(self) -> dict[str, Any]:
        if not self.exists():
            return {_FILES: {}, _UNFINISHED: []}
        try:
            content = json.loads((self.folder / FILE).read_bytes())
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict) or content.keys() != {_FILES, _UNFINISHED}:
            raise UserError(f"{self.folder / FILE} was not written by quarterdose: move it")
        return content

    def _matches(self, patterns: Iterable[str]) -> list[Path]:
        return sorted({path for pattern in patterns for path in self.folder.glob(pattern)})

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
