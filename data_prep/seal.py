"""JSON files that carry their own digest: a change of a single byte is noticed when they are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files import digest_json, write_json

SEAL = "seal"
"""Key of the digest of all that stands beside it."""


class BrokenSeal(Exception):
    """A file or record was cut or changed after it was written, or has no digest of its own."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values with their own digest."""
    plain = json.loads(json.dumps(content))
    return {**plain, SEAL: digest_json(plain)}


def unsealed(content: Any) -> dict[str, Any]:
    """Return the plain values without their digest.

    Raises:
        BrokenSeal: they have none, or it is another one's.
    """
    if not isinstance(content, dict):
        raise BrokenSeal
    values = {key: content[key] for key in content if key != SEAL}
    if content.get(SEAL) != digest_json(values):
        raise BrokenSeal
    return values


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values with their digest as JSON, atomically."""
    write_json(path, sealed(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote.

    Raises:
        FileNotFoundError: there is no file.
        BrokenSeal: it was cut or changed since, or is of another kind.
    """
    try:
        return unsealed(json.loads(path.read_bytes()))
    except ValueError as error:
        raise BrokenSeal from error
