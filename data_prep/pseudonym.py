"""Keyed pseudonyms: they stand for patients' identifiers, which must not leave the reader."""

import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path


def pseudonym(identifier: str) -> str:
    """Return ten hex digits of a keyed BLAKE2 hash: always the same for one user, not reversible without the key."""
    return _digest(identifier, _key(os.environ.get("XDG_CONFIG_HOME", "~/.config")))


def file_pseudonym(path: str) -> str:
    """Return the pseudonym of a single file, from its path below its source's root."""
    return f"x-{pseudonym(path)}"


@lru_cache(4096)  # the files of a series share most identifiers
def _digest(identifier: str, key: bytes) -> str:
    return hashlib.blake2b(identifier.encode(errors="surrogatepass"), key=key, digest_size=5).hexdigest()


@lru_cache
def _key(config: str) -> bytes:
    """Read the user's key, ``~/.config/quarterdose/pseudonym.key``; it is created at first use, with mode 0600."""
    path = Path(config).expanduser() / "quarterdose" / "pseudonym.key"
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
