"""Write files and folders that are whole or absent, never half written; lock and digest files."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from data_prep.errors import UserError

_PROBE_BYTES = 1 << 20
_LOOKS, _LOOK_SECONDS = 5, 0.05

Declare = Callable[[Path], None]
"""Called with a complete temporary file or folder, before it gets its final name."""


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


def declare_nothing(_temporary: Path) -> None:
    """Do nothing: the file or folder has no record."""


@contextmanager
def replacing(path: Path, declare: Declare = declare_nothing) -> Iterator[Path]:
    """Give a sibling file to write; without an error it is fsynced, declared and replaces ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = sibling(path)
    with _naming(path, temporary):
        try:
            yield temporary
            _fsync(temporary)
            declare(temporary)
            os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let an error of the block that comes from a full disk, or is about what will replace ``path``, name ``path``."""
    try:
        with naming_full_disk(path):
            yield
    except OSError as error:
        if isinstance(error.filename, str) and Path(error.filename).is_relative_to(temporary):
            error.filename = str(path)
        raise


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Let an error of the block that comes from a full disk name the file or folder that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(path)
        raise


def check_writable(folder: Path) -> None:
    """Check that a file can be written in a folder and reaches the disk: one of 1 MiB, which is removed again.

    Raises:
        UserError: it cannot.
    """
    probe = sibling(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(os.urandom(_PROBE_BYTES))  # zeros may take no room
        _fsync(probe)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


@contextmanager
def publishing(folder: Path, declare: Declare = declare_nothing) -> Iterator[Path]:
    """Give a sibling folder to fill; without an error it is fsynced, declared and replaces ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = sibling(folder)
    with _naming(folder, temporary):
        try:
            temporary.mkdir()
            yield temporary
            for entry in sorted(temporary.rglob("*")):
                _fsync(entry)
            _fsync(temporary)
            declare(temporary)
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


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Delete siblings that a killed writer left of the files and folders in ``folder`` whose whole name matches.

    ``pattern``: a regular expression, :func:`re.escape` of a single name. No other writer of them may be at work.
    """
    leftovers = re.compile(rf"\.(?:{pattern})\.[0-9a-f]{{32}}\.tmp")
    for leftover in [path for path in folder.glob(".*.tmp") if leftovers.fullmatch(path.name)]:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on ``path`` and hold it; the kernel frees it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        _lock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path, otherwise: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, or refuse at once; what the file holds stays.

    Raises:
        UserError: another process holds it, and the message is ``otherwise``; or nothing can be written beside it.
    """
    with _open_lock(path) as handle:
        _lock_at_once(handle, otherwise)
        yield


@contextmanager
def claimed(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock as :func:`held` does, on a file that exists only as long as it is held."""
    with _open_lock(path) as handle:
        _lock_at_once(handle, otherwise)
        if not _is_open_at(handle, path):  # its last holder removed it after it was opened here
            raise UserError(otherwise)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_lock(path: Path) -> TextIO:
    """Open a lock file, which is created where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error.strerror}") from error


def _lock_at_once(handle: TextIO, otherwise: str) -> None:
    """Lock a file, or refuse after as long as :func:`is_locked` of another process may hold it."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            return _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOOK_SECONDS)
    raise UserError(otherwise)


def _lock(handle: TextIO, operation: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: another process holds it, and ``operation`` is not to wait.
        UserError: its file system has no locks.
    """
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"{handle.name} cannot be locked ({error.strerror}): its file system must be mounted with flock"
        ) from error


def _is_open_at(handle: TextIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat())


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on ``path``."""
    if not path.exists():
        return False
    with path.open() as handle:
        try:
            _lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
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


def is_plain_file(path: Path) -> bool:
    """Whether a file itself lies at ``path``, and no link to one."""
    return path.is_file() and not path.is_symlink()


def digest_plain_file(path: Path) -> str:
    """Return the digest of one file; empty for links, which the program does not write, and for what is no file."""
    return digest_files([path]) if is_plain_file(path) else ""


def digest_json(content: Any) -> str:
    """Return the SHA-256 of ``content`` as canonical JSON: equal contents give equal digests."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
