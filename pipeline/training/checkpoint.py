"""Checkpoints on disk: written whole or not at all, the newest few and the best kept, never executed."""

import io
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import MachineError
from data_prep.files import write_atomic


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


def save(folder: Path, step: int, state: dict[str, Any], kept: int, also: Collection[int] = ()) -> None:
    """Write the state after ``step`` steps, then drop all but the newest ``kept`` and those of steps ``also``.

    Raises:
        MachineError: it cannot be written, as on a full disk; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomic(_path(folder, step), buffer.getvalue())
    except OSError as error:
        before = max(_steps(folder), default=None)
        rest = "there is no earlier one" if before is None else f"that of step {before} is kept"
        raise MachineError(f"the checkpoint of step {step} cannot be written ({error.strerror}); {rest}") from error
    for old in _steps(folder)[:-kept]:
        if old not in also:
            _path(folder, old).unlink()


def newest(folder: Path) -> int | None:
    """Step of the newest checkpoint that can be read, None if there is none; others are warned of and passed over."""
    for step in reversed(_steps(folder)):
        try:
            load(folder, step)
        except CheckpointError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
        else:
            return step
    return None


def load(folder: Path, step: int) -> dict[str, Any]:
    """The state after ``step`` steps, on the CPU; only tensors and plain values are read."""
    return load_state(_path(folder, step))


def load_state(path: Path) -> dict[str, Any]:
    """Tensors and plain values from a file of ``torch.save``; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, no such file, or its bytes are not those that were written.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch leaves the checksums that it writes unread
            broken = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many kinds for a broken file
        raise CheckpointError(f"{path} is no readable checkpoint: {_first_line(error)}") from error
    if broken:
        raise CheckpointError(f"{path} is no readable checkpoint: the bytes of {broken} have changed")
    assert isinstance(state, dict)
    return state


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
