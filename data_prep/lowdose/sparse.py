"""Sparse matrices in torch, and their cache on the node's own disk, shared between processes."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.files import digest_json, locked, publishing

VERSION = 1  # raised when a table's values change for the same arguments
MOST_BYTES = 4 * 10**9
_PARTS = ("indices", "weights", "starts")


@dataclass(frozen=True)
class Table:
    """A sparse matrix: row r sums ``weights * input[indices]`` from ``starts[r]`` to ``starts[r + 1]``."""

    indices: Tensor
    weights: Tensor
    starts: Tensor

    @classmethod
    def of(cls, indices: Tensor, weights: Tensor, counts: Tensor) -> "Table":
        """The table whose rows have ``counts`` terms each, row after row; a row without terms gives 0."""
        return cls(indices.reshape(-1).int(), weights.reshape(-1).float(), (counts.cumsum(0) - counts).int())

    def __call__(self, columns: Tensor) -> Tensor:
        """Apply to (inputs, columns), giving (rows, columns)."""
        return F.embedding_bag(self.indices, columns, self.starts, mode="sum", per_sample_weights=self.weights)

    def to(self, device: torch.device) -> "Table":
        """The same table on another device."""
        return Table(self.indices.to(device), self.weights.to(device), self.starts.to(device))


def cached(build: Callable[..., Table], *arguments: object) -> Table:
    """``build(*arguments)``, kept on disk and mapped into memory, so that processes share its pages.

    The arguments are numbers and frozen settings, told apart by their ``repr``. The entries unused for
    longest make room beyond ``MOST_BYTES``. Where nothing can be written (disk full, a folder of
    somebody else) the table is made in memory, as it would be without the cache.
    """
    folder = Path(tempfile.gettempdir()) / f"quarterdose-tables-{os.getuid()}"
    if not _own(folder):
        return build(*arguments)
    entry = folder / digest_json([VERSION, build.__name__, repr(arguments)])[:32]
    return _load(entry) or _make(entry, lambda: build(*arguments))


def _own(folder: Path) -> bool:
    """Make the folder; whether it is a real one that nobody else can write to or read."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _load(entry: Path) -> Table | None:
    """The table of an entry, or none if it is missing or damaged."""
    try:
        parts = [np.load(entry / f"{part}.npy", mmap_mode="c", allow_pickle=False) for part in _PARTS]
        os.utime(entry)
        return Table(*(torch.from_numpy(part) for part in parts))
    except (OSError, ValueError, EOFError):
        return None


def _make(entry: Path, build: Callable[[], Table]) -> Table:
    """Build and publish; of several processes that want the same entry, one builds."""
    table = None
    try:
        with locked(entry.with_suffix(".lock")):
            if found := _load(entry):
                return found
            table = build()
            _publish(entry, table)
            return _load(entry) or table
    except OSError:
        return table or build()


def _publish(entry: Path, table: Table) -> None:
    with publishing(entry) as temporary:
        for part in _PARTS:
            np.save(temporary / f"{part}.npy", getattr(table, part).numpy(), allow_pickle=False)
    _make_room(entry.parent)


def _make_room(folder: Path) -> None:
    """Remove entries, and what killed writers left, from the one used last beyond ``MOST_BYTES``.

    On a local disk a process may go on using a table that is removed.
    """
    total = 0
    for entry in sorted((path for path in folder.iterdir() if path.is_dir()), key=_used, reverse=True):
        total += sum(file.stat().st_size for file in entry.iterdir())
        if total > MOST_BYTES:
            shutil.rmtree(entry, ignore_errors=True)


def _used(entry: Path) -> float:
    return entry.stat().st_mtime
