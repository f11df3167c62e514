"""The files at or below a folder, also behind links: each file and folder once, by its real path.

What cannot be looked at is listed with the reason, so that nothing is passed over in silence.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.errors import UserError
from data_prep.log import logger, printable

CANNOT_OPEN = "cannot be opened"
"""Start of the fault of a file that may be readable at another time, or on another machine."""


class Entry(NamedTuple):
    """A file: its path below the root, size (bytes) and time of the last change (ns).

    ``fault``: why the file or folder cannot be looked at, which then has a size and time of -1.
    """

    path: str
    size: int
    time: int
    fault: str = ""


def list_files(root: Path) -> list[Entry]:
    """List the files at or below ``root``, in no order; a link to a folder above it is not followed.

    Raises:
        UserError: ``root`` is no folder, or cannot be looked at.
    """
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UserError(f"data.sources: {root} {fault_of(error)}") from error
    return list(_Walk(root).entries())


def log_passed_over(root: Path, counts: Mapping[str, int]) -> None:
    """Say how many files at or below ``root`` are no images, so that with the listed ones all are accounted for."""
    count = sum(counts.values())
    if count:
        logger.info(f"{printable(str(root))}: files that are no images and are passed over: {count}")


def fault_of(error: OSError) -> str:
    """Return why a file or folder cannot be opened, without its path."""
    return f"{CANNOT_OPEN} ({error.strerror})"


@dataclass
class _Walk:
    """A walk through folders: the ``pending`` ones by path and real path, then what is behind ``links``."""

    root: Path
    pending: list[tuple[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._prefix_length = len(os.path.join(self.root, ""))

    def entries(self) -> Iterator[Entry]:
        home = os.path.realpath(self.root)
        self.pending, file_links = [(str(self.root), home)], list[str]()
        while self.pending or self.links:
            if not self.pending:
                yield from self._follow(self.links.pop(), home)
                continue
            path, real = self.pending.pop()
            self.visited.add(real)
            yield from self._scan(path, real, file_links)
        yield from self._linked_files(sorted(file_links))

    def _follow(self, link: str, home: str) -> Iterator[Entry]:
        """Make a linked folder pending, unless it was visited; say so if it holds the root."""
        real = os.path.realpath(link)
        if real not in self.visited and _is_within(home, real):
            yield self._fault(link, "is a link to a folder that holds the source")
        elif real not in self.visited:
            self.pending.append((link, real))

    def _scan(self, folder: str, real: str, file_links: list[str]) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            yield self._fault(folder, fault_of(error))
            return
        links = list[str]()
        for entry in entries:
            if entry.is_symlink():
                (links if os.path.isdir(entry.path) else file_links).append(entry.path)
            elif entry.is_dir():
                inner = os.path.join(real, entry.name)
                if inner not in self.visited:
                    self.pending.append((entry.path, inner))
            elif entry.is_file():
                stat = entry.stat()
                yield Entry(self._below(entry.path), stat.st_size, stat.st_mtime_ns)
        self.links = sorted([*self.links, *links], reverse=True)

    def _linked_files(self, links: list[str]) -> Iterator[Entry]:
        """Yield the files behind links that are not listed by themselves."""
        listed = set[str]()
        for link in links:
            real = os.path.realpath(link)
            try:
                stat = os.stat(link)
            except OSError as error:
                yield self._fault(link, fault_of(error))
                continue
            if os.path.isfile(link) and os.path.dirname(real) not in self.visited and real not in listed:
                listed.add(real)
                yield Entry(self._below(link), stat.st_size, stat.st_mtime_ns)

    def _fault(self, path: str, fault: str) -> Entry:
        return Entry(self._below(path), -1, -1, fault)

    def _below(self, path: str) -> str:
        return path[self._prefix_length :]


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
