"""Keyed pseudonyms: they stand for patients' identifiers, which must not leave the reader."""

import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path


def pseudonym(identifier: str) -> str:
    """Return ten hex digits of a keyed BLAKE2 hash: always the same for one user, not reversible without the key."""
    return hashlib.blake2b(identifier.encode(), key=_key(_key_path()), digest_size=5).hexdigest()


def _key_path() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "quarterdose" / "pseudonym.key"


@lru_cache
def _key(path: Path) -> bytes:
    """Read the user's key, ``~/.config/quarterdose/pseudonym.key``; it is created at first use, with mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(32))
        try:
            os.link(temporary, path)  # fails if another process was first: its key is used
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_bytes()
