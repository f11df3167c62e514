"""The user's own cache folder: JSON files, mode 0600, that may hold names of patients' files.

A cache file that is absent, changed since it was written, or of another version counts as empty. Its first line is the
SHA-256 of the others.
"""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import digest_json, is_plain_file, write_atomic
from data_prep.home import home_folder
from data_prep.log import logger
from data_prep.pseudonym import pseudonym


def cache_folder() -> Path:
    """Return ``~/.cache/quarterdose``, or the folder that ``XDG_CACHE_HOME`` asks for."""
    return home_folder("XDG_CACHE_HOME", ".cache") / "quarterdose"


def cache_path(folder: str, *subject: Any) -> Path:
    """Return the cache file about some plain values; another pseudonym key means another file."""
    name = digest_json([*subject, pseudonym("a key's mark")])
    return cache_folder() / folder / f"{name[:32]}.json"


def read_cache(path: Path, version: int) -> Any:
    """Return the content that was written under this version, or None."""
    try:
        checksum, _, payload = path.read_bytes().partition(b"\n")
        if checksum != _checksum(payload):
            return None
        cached = json.loads(payload)
        return cached["content"] if cached["version"] == version else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_cache(path: Path, version: int, content: Any) -> None:
    """Write plain values to a cache file; where that is not possible, a warning says so: it will be read as empty.

    Raises:
        UserError: its name is taken by something that is no file.
    """
    try:
        if os.path.lexists(path) and not is_plain_file(path):
            raise UserError(f"{path} is no cache file, and nothing of yours is replaced: move it")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        payload = json.dumps({"version": version, "content": content})
        write_atomic(path, f"{_checksum(payload.encode()).decode()}\n{payload}", mode=0o600)
    except OSError as error:
        _warn(path.parent, error.strerror or "")


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode()


@lru_cache  # once a folder
def _warn(folder: Path, reason: str) -> None:
    logger.warning(
        f"{folder} cannot be written ({reason}), so that its content is found anew each time: let XDG_CACHE_HOME name "
        "a folder that you can write"
    )
