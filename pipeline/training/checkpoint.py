"""Checkpoints on disk: written whole or not at all, the newest two kept, never executed."""

import io
from pathlib import Path
from typing import Any

import torch

from data_prep.files import write_atomic

KEPT = 2


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after ``step`` steps and drop all but the newest two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(_path(folder, step), buffer.getvalue())
    for old in _steps(folder)[:-KEPT]:
        _path(folder, old).unlink()


def newest(folder: Path) -> int:
    """Steps done in the newest checkpoint, 0 if there is none."""
    return max(_steps(folder), default=0)


def load(folder: Path, step: int) -> dict[str, Any]:
    """The state after ``step`` steps, on the CPU; only tensors and plain values are read."""
    return load_state(_path(folder, step))


def load_state(path: Path) -> dict[str, Any]:
    """Tensors and plain values from a file of ``torch.save``; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing or no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path} is no readable checkpoint: {str(error).splitlines()[0]}") from error
    assert isinstance(state, dict)
    return state


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
