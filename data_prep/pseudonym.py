"""Keyed pseudonyms: they stand for patients' identifiers, which must not leave the reader."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from data_prep.errors import UserError
from data_prep.home import home_folder

_KEY_BYTES = 32
_temporary_key = bytearray()


def pseudonym(identifier: str) -> str:
    """Return ten hex digits of a keyed BLAKE2 hash: always the same for one user, not reversible without the key.

    Raises:
        UserError: the user's key cannot be read or made.
    """
    return _digest(identifier, temporary_key() or _key(home_folder("XDG_CONFIG_HOME", ".config")))


def file_pseudonym(path: str) -> str:
    """Return the pseudonym of a single file, from its path below its source's root."""
    return f"x-{pseudonym(path)}"


@lru_cache(4096)  # the files of a series share most identifiers
def _digest(identifier: str, key: bytes) -> str:
    return hashlib.blake2b(identifier.encode(errors="surrogatepass"), key=key, digest_size=5).hexdigest()


@contextmanager
def passing_pseudonyms() -> Iterator[None]:
    """Within the block, where the user's key cannot be had, make pseudonyms by a key that is then forgotten.

    They must not leave the block.
    """
    try:
        pseudonym("")
    except UserError:
        use_temporary_key(secrets.token_bytes(_KEY_BYTES))
    try:
        yield
    finally:
        use_temporary_key(b"")


def temporary_key() -> bytes:
    """Return the key that will be forgotten: nothing made by it is to be kept; empty where the user's is used."""
    return bytes(_temporary_key)


def use_temporary_key(key: bytes) -> None:
    """Make all pseudonyms of this process by a key of :func:`temporary_key`; by the user's if it is empty."""
    _temporary_key[:] = key


@lru_cache
def _key(config: Path) -> bytes:
    """Read the user's key, ``~/.config/quarterdose/pseudonym.key``; it is created at first use, with mode 0600."""
    path = config / "quarterdose" / "pseudonym.key"
    try:
        if not path.exists():
            _create_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}, the key of your pseudonyms, cannot be read or made ({error.strerror}): "
            "let XDG_CONFIG_HOME name a folder that you can write"
        ) from error
    if len(key) != _KEY_BYTES:
        raise UserError(f"{path} holds no key of {_KEY_BYTES} bytes: remove it, and pseudonyms will be others")
    return key


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(_KEY_BYTES))
        os.link(temporary, path)  # fails if another process was first: its key is used
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
