"""Write files and folders that are whole or absent, never half written; lock and digest files."""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import UserError


def sibling(path: Path) -> Path:
    """Return a hidden path in the folder of ``path`` that no other writer uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def write_atomic(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write ``path`` by way of a sibling that is renamed; ``mode`` is reduced by the umask."""
    with replacing(path) as temporary:
        temporary.touch(mode)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomic(path, json.dumps(content, indent=1) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a sibling file to write; without an error it is fsynced and replaces ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = sibling(path)
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """Give a sibling folder to fill; without an error it is fsynced and replaces ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = sibling(folder)
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*")):
            _fsync(entry)
        _fsync(temporary)
        _swap(temporary, folder)
        _fsync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, final: Path) -> None:
    old = sibling(final)
    if final.exists():
        os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str) -> None:
    """Delete the siblings of ``folder / name`` that a killed writer left; no other writer may be at work."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on ``path`` and hold it; the kernel frees it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path, otherwise: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, or refuse at once.

    Raises:
        UserError: another process holds it; the message is ``otherwise``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(otherwise) from error
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on ``path``."""
    if not path.exists():
        return False
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def digest_files(paths: Iterable[Path]) -> str:
    """Return a SHA-256 of the digests of the files, in this order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


def digest_json(content: Any) -> str:
    """Return the SHA-256 of ``content`` as canonical JSON: equal contents give equal digests."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
