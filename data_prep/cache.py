"""The user's own cache folder: what is remembered there, mode 0600, may hold names of patients' files.

A memory is a JSON file. One that is absent, broken or of another version counts as nothing remembered.
"""

import json
import os
from pathlib import Path
from typing import Any

from data_prep.files import digest_json, write_atomic
from data_prep.pseudonym import pseudonym


def cache_folder() -> Path:
    """``~/.cache/quarterdose``."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "quarterdose"


def memory_path(folder: str, *about: Any) -> Path:
    """The memory about some plain values; another pseudonym key means another memory."""
    name = digest_json([*about, pseudonym("a key's mark")])
    return cache_folder() / folder / f"{name[:32]}.json"


def read_memory(path: Path, version: int) -> Any:
    """What was written to the memory under this version, or None."""
    try:
        memory = json.loads(path.read_text())
        return memory["content"] if memory["version"] == version else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def write_memory(path: Path, version: int, content: Any) -> None:
    """Remember plain values."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, json.dumps({"version": version, "content": content}), mode=0o600)
