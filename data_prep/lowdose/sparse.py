"""Sparse matrices in torch, cached on the local disk of the node for all its processes."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.files import digest_json, locked, publishing
from data_prep.ownership import private_temporary_folder

VERSION = 2  # raised when a table's values change for the same arguments
MAX_BYTES = 4 * 10**9
GEOMETRIES = 32
"""Of which a process keeps tables open, each 3 to 9 files mapped into memory."""
_PARTS = ("indices", "weights", "starts")


@dataclass(frozen=True)
class Table:
    """A sparse matrix: row r sums ``weights * input[indices]`` from ``starts[r]`` to ``starts[r + 1]``."""

    indices: Tensor
    weights: Tensor
    starts: Tensor

    @classmethod
    def of(cls, indices: Tensor, weights: Tensor, counts: Tensor) -> "Table":
        """Return the table whose rows have ``counts`` terms each, row after row; a row without terms gives 0."""
        return cls(indices.reshape(-1).int(), weights.reshape(-1).float(), (counts.cumsum(0) - counts).int())

    def __call__(self, columns: Tensor) -> Tensor:
        """Multiply with (inputs, columns); returns (rows, columns)."""
        return F.embedding_bag(self.indices, columns, self.starts, mode="sum", per_sample_weights=self.weights)

    def to(self, device: torch.device) -> "Table":
        """Return the same table on another device."""
        return Table(self.indices.to(device), self.weights.to(device), self.starts.to(device))


def cached(build: Callable[..., Table], *arguments: object) -> Table:
    """Return ``build(*arguments)`` from a file mapped into memory, so that processes share its pages.

    The arguments are numbers and frozen settings; their ``repr`` is the key. Beyond ``MAX_BYTES``, entries that were
    not used for the longest time are removed. Where nothing can be written (disk full, a folder of another user), the
    table is built in memory without the cache.
    """
    folder = private_temporary_folder(Path(tempfile.gettempdir()), "tables")
    if folder is None:
        return build(*arguments)
    entry = folder / digest_json([VERSION, build.__name__, repr(arguments)])[:32]
    return _load(entry) or _build_entry(entry, lambda: build(*arguments))


def _load(entry: Path) -> Table | None:
    """Return the table of an entry, or None if it is missing or damaged."""
    try:
        parts = [np.load(entry / f"{part}.npy", mmap_mode="c", allow_pickle=False) for part in _PARTS]
        os.utime(entry)
        return Table(*(torch.from_numpy(part) for part in parts))
    except (OSError, ValueError, EOFError):
        return None


def _build_entry(entry: Path, build: Callable[[], Table]) -> Table:
    """Build and publish an entry; of several processes that need the same entry, one builds it."""
    table = None
    try:
        with locked(entry.with_suffix(".lock")):
            if cached_table := _load(entry):
                return cached_table
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
    """Keep the latest entries within ``MAX_BYTES``; remove the others, and what killed writers left.

    On a local disk a process can still use a table that is removed.
    """
    total = 0
    for entry in sorted((path for path in folder.iterdir() if _is_entry(path)), key=_last_use, reverse=True):
        total += sum(file.stat().st_size for file in entry.iterdir())
        if total > MAX_BYTES:
            shutil.rmtree(entry, ignore_errors=True)


def _is_entry(path: Path) -> bool:
    """Return whether a path is an entry, or a sibling that a killed writer left of one."""
    return path.is_dir() and bool(re.fullmatch(r"\.?[0-9a-f]{32}(\.[0-9a-f]{32}\.tmp)?", path.name))


def _last_use(entry: Path) -> float:
    return entry.stat().st_mtime
