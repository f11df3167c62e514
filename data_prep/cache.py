"""The user's own cache folder: JSON files, mode 0600, that may hold names of patients' files.

A cache file that is absent, broken or of another version counts as empty.
"""

import json
import os
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import digest_json, is_plain_file, write_atomic
from data_prep.pseudonym import pseudonym


def cache_folder() -> Path:
    """Return ``~/.cache/quarterdose``, or the folder that ``XDG_CACHE_HOME`` asks for."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "quarterdose"


def cache_path(folder: str, *subject: Any) -> Path:
    """Return the cache file about some plain values; another pseudonym key means another file."""
    name = digest_json([*subject, pseudonym("a key's mark")])
    return cache_folder() / folder / f"{name[:32]}.json"


def read_cache(path: Path, version: int) -> Any:
    """Return the content that was written under this version, or None."""
    try:
        cached = json.loads(path.read_text())
        return cached["content"] if cached["version"] == version else None
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError, KeyError):
        return None


def write_cache(path: Path, version: int, content: Any) -> None:
    """Write plain values to a cache file.

    Raises:
        UserError: its name is taken by something that is no file.
    """
    if os.path.lexists(path) and not is_plain_file(path):
        raise UserError(f"{path} is no cache file, and nothing of yours is replaced: move it")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, json.dumps({"version": version, "content": content}), mode=0o600)
