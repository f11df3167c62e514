"""Files beside the checkout, which not every machine has."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("QUARTERDOSE_SHARED", Path(__file__).parents[2] / "shared"))


def shared_file(name: str) -> Path:
    """A file or folder beside the checkout, or a skip that names it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is missing beside the checkout")
    return path
