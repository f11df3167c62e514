"""Folders that are costly to fill: once a session, whichever worker of pytest-xdist comes first."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def fill_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return the session's folder of that name, filled; whoever comes while another fills it waits."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".filled").exists():
            fill(folder)
            folder.with_suffix(".filled").touch()
    return folder
