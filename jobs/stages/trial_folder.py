"""What the folder of a trial holds beside its training: its parameters, and how often it was started."""

import shutil
from pathlib import Path
from typing import Any

from data_prep.errors import MachineError
from data_prep.seal import BrokenSeal, read_sealed, write_sealed
from jobs.stages.train import CELL_FILES
from pipeline.search.trials import Parameters

_PARAMETERS, _STARTS = "parameters.json", "starts.json"
_MOST_STARTS = 3  # without a new checkpoint
FILES = f"{CELL_FILES}|{_PARAMETERS}|{_STARTS}"
"""Pattern of all files in it."""


class TrialFolder:
    """The folder of one trial."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_parameters(self, key: str) -> Parameters | None:
        """Read the parameters that the trial was started with; None if it never was, or what has another key."""
        record = self._read(_PARAMETERS)
        return record["parameters"] if record.get("key") == key else None

    def start(self, key: str, parameters: Parameters) -> None:
        """Record the parameters before the first step, with a digest of all that decides on them and on the training.

        What a trial of another key left is removed.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        write_sealed(self.path / _PARAMETERS, {"key": key, "parameters": dict(parameters)})

    def count_start(self) -> None:
        """Count the starts since the newest checkpoint, so that a trial that kills its processes comes to an end.

        Raises:
            MachineError: they are too many; the next run counts anew.
        """
        checkpoints = sorted(path.name for path in self.path.glob("checkpoints/step-*.pt"))
        before = self._read(_STARTS)
        count = before["count"] + 1 if before.get("checkpoints") == checkpoints else 1
        if count > _MOST_STARTS:
            self.forget_starts()
            raise MachineError(
                f"its process died {_MOST_STARTS} times without a new checkpoint, as one does that takes too much "
                "memory; see the logs"
            )
        write_sealed(self.path / _STARTS, {"count": count, "checkpoints": checkpoints})

    def forget_starts(self) -> None:
        """Count no start of before: the trial has ended by itself."""
        (self.path / _STARTS).unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_sealed(self.path / name)
        except (FileNotFoundError, BrokenSeal):
            return {}
