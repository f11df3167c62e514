"""The files at or below a folder, also behind links: each file and folder once, by its real path.

Folders whose names begin with a dot hold what is no part of an archive: snapshots, waste, an unfinished download, the
contents that git-annex keeps behind links. They, and what cannot be looked at, are listed with the reason, so that
nothing is passed over in silence.
"""

import os
from collections.abc import Mapping
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
    return _Walk(root).entries()


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
    """A walk through folders: the ``pending`` ones by path and real path, then what is behind ``links``.

    ``files``: those found so far, by their real path. ``faults``: what cannot be looked at.
    """

    root: Path
    pending: list[tuple[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)
    files: dict[str, Entry] = field(default_factory=dict)
    faults: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prefix_length = len(os.path.join(self.root, ""))

    def entries(self) -> list[Entry]:
        home = os.path.realpath(self.root)
        self.pending, file_links = [(str(self.root), home)], list[str]()
        while self.pending or self.links:
            if not self.pending:
                self._follow(self.links.pop(), home)
                continue
            path, real = self.pending.pop()
            self.visited.add(real)
            self._scan(path, real, file_links)
        for link in sorted(file_links):
            self._add_linked_file(link)
        return [*self.files.values(), *self.faults]

    def _follow(self, link: str, home: str) -> None:
        """Make a linked folder pending, unless it was visited; say so if it holds the root."""
        real = os.path.realpath(link)
        if real not in self.visited and _is_within(home, real):
            self._add_fault(link, "is a link to a folder that holds the source")
        elif real not in self.visited:
            self.pending.append((link, real))

    def _scan(self, folder: str, real: str, file_links: list[str]) -> None:
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            self._add_fault(folder, fault_of(error))
            return
        links = list[str]()
        for entry in entries:
            try:
                self._sort(entry, os.path.join(real, entry.name), links, file_links)
            except OSError as error:  # its folder may not be searched, or it is gone meanwhile
                self._add_fault(entry.path, fault_of(error))
        self.links = sorted([*self.links, *links], reverse=True)

    def _sort(self, entry: os.DirEntry[str], real: str, links: list[str], file_links: list[str]) -> None:
        """List a file; put a folder or a link where it is followed later."""
        is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
        if is_folder and entry.name.startswith("."):
            self._add_fault(entry.path, "is a hidden folder, which is not looked into")
        elif entry.is_symlink():
            (links if is_folder else file_links).append(entry.path)
        elif is_folder and real not in self.visited:
            self.pending.append((entry.path, real))
        elif entry.is_file():
            self.files[real] = self._entry(entry.path, entry.stat())

    def _add_linked_file(self, link: str) -> None:
        """List the file behind a link, unless it is listed; by the link's name if its own has no ending."""
        real = os.path.realpath(link)
        try:
            stat = os.stat(link)
        except OSError as error:
            self._add_fault(link, fault_of(error))
            return
        is_better_named = _ending(link) and real in self.files and not _ending(self.files[real].path)
        if os.path.isfile(link) and (real not in self.files or is_better_named):
            self.files[real] = self._entry(link, stat)

    def _add_fault(self, path: str, fault: str) -> None:
        self.faults.append(Entry(self._below(path), -1, -1, fault))

    def _entry(self, path: str, stat: os.stat_result) -> Entry:
        return Entry(self._below(path), stat.st_size, stat.st_mtime_ns)

    def _below(self, path: str) -> str:
        return path[self._prefix_length :]


def _ending(path: str) -> str:
    return os.path.splitext(path)[1]


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
