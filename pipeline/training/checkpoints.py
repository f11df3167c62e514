"""Checkpoints on disk: written whole or not at all, the newest and the best kept, read without running any code."""

import io
import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_prep.errors import MachineError
from data_prep.files import digest_files, remove_leftovers, write_atomic
from data_prep.log import logger
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings
from pipeline.training.errors import CheckpointError

_FILE = re.compile(r"step-(\d+)\.pt")
_REMEDY = "the next run trains on from the last that is whole"


class Checkpoints:
    """Checkpoints of one training, each in a file of ``folder`` named after the number of steps taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any], keep: int, also: Collection[int] = ()) -> None:
        """Write the state after ``step`` steps, then drop all but the last ``keep`` up to it and those of ``also``.

        Later ones were passed over when the training was resumed from an earlier one: they are dropped too.

        Raises:
            MachineError: it cannot be written, as on a full disk; earlier checkpoints are untouched.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            write_atomic(self.path(step), buffer.getvalue())
        except OSError as error:
            raise MachineError(
                f"the checkpoint of step {step} cannot be written ({error.strerror}); {self._describe_last()}"
            ) from error
        steps = self._steps()
        remaining = {*[earlier for earlier in steps if earlier <= step][-keep:], *also}
        for dropped in set(steps) - remaining:
            self.path(dropped).unlink()

    def _describe_last(self) -> str:
        last = max(self._steps(), default=None)
        return "there is no earlier one" if last is None else f"that of step {last} is kept"

    def newest(self, *, with_best: bool = False) -> int | None:
        """Return the step of the newest readable checkpoint, None if there is none; warn of unreadable ones.

        ``with_best``: the checkpoint of its best validation must be readable too.
        """
        for step in reversed(self._steps()):
            try:
                best = self.load(step).get("best")
                if with_best and best:
                    self.load(int(best["step"]))
            except CheckpointError as error:
                logger.warning(f"passed over: {error}")
            else:
                return step
        return None

    def load(self, step: int) -> dict[str, Any]:
        """Read the state after ``step`` steps onto the CPU.

        Raises:
            CheckpointError: it cannot be read.
        """
        return load_state(self.path(step))

    def digest(self, step: int) -> str:
        """Return the SHA-256 of the file of the state after ``step`` steps."""
        return digest_files([self.path(step)])

    def remove_leftovers(self) -> None:
        """Delete files that a killed process left half written."""
        remove_leftovers(self.folder, _FILE.pattern)

    def path(self, step: int) -> Path:
        """Return the file of the state after ``step`` steps."""
        return self.folder / f"step-{step:08d}.pt"

    def _steps(self) -> list[int]:
        names = (_FILE.fullmatch(path.name) for path in self.folder.glob("*"))
        return sorted(int(name[1]) for name in names if name)


def load_state(path: Path) -> dict[str, Any]:
    """Read tensors and plain values from a file of ``torch.save``; code in it is not run.

    Raises:
        CheckpointError: the file is missing or of another kind, or its bytes have changed since it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums that it writes
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


def load_trained(cell: CellSettings, folder: Path) -> nn.Module:
    """Load the network of the finished training in ``folder``, in eval mode on the CPU.

    It is that of the last step or of the best validation, as ``keep`` says, with averaged weights if there are such.

    Raises:
        CheckpointError: the checkpoint that ``result.json`` names is missing or was changed.
    """
    result = json.loads((folder / "result.json").read_bytes())
    checkpoints, network = Checkpoints(folder / "checkpoints"), build_network(cell)
    step = result["checkpoint_step"]
    path = checkpoints.path(step)
    if not path.exists():
        raise CheckpointError(f"{path}, with which the training ended, is missing: {_REMEDY}")
    if result["checkpoint"] != checkpoints.digest(step):
        raise CheckpointError(f"{path} is not the file with which the training ended: delete it, and {_REMEDY}")
    state = checkpoints.load(step)
    network.load_state_dict(state["average"]["weights"] if state.get("average") else state["model"])
    return network.eval()
