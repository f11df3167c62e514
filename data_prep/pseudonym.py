"""Keyed pseudonyms, so that no patient's identifier leaves the reader."""

import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path


def pseudonym(identifier: str) -> str:
    """Ten hex digits of a keyed BLAKE2 hash: the same for the same user, not reversible without the key."""
    return hashlib.blake2b(identifier.encode(), key=_key(_key_path()), digest_size=5).hexdigest()


def _key_path() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "quarterdose" / "pseudonym.key"


@lru_cache
def _key(path: Path) -> bytes:
    """The user's own key, made at first need: ``~/.config/quarterdose/pseudonym.key``, mode 0600; read once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if not path.exists():
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(32))
        try:
            os.link(own, path)  # fails if another process was first: its key is taken
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return path.read_bytes()
