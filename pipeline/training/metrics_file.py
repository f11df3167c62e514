"""``metrics.jsonl``, the record of a training's progress: one JSON object a line, written by rank 0."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard.writer import SummaryWriter

from data_prep.files import write_atomic

Lines = Mapping[str, Sequence[dict[str, Any]]]
"""Lines of the ``metrics.jsonl`` of each training, by its id."""


class MetricsFile:
    """Appends lines to ``folder/metrics.jsonl`` and the same numbers to TensorBoard.

    Lines of steps after ``step``, and of validations after step ``validated``, are dropped: a process that was killed
    wrote them after its last checkpoint, and these steps are taken again.
    """

    def __init__(self, folder: Path, step: int, validated: int) -> None:
        path, last = folder / "metrics.jsonl", {"train": step, "validation": validated}
        lines = [line for line in read_metrics(folder) if line["step"] <= last[line["kind"]]]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._handle = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Append one line and flush it; lists are not sent to TensorBoard."""
        line = {"kind": kind, "step": step, "epoch": epoch, **values}
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()
        for name, value in values.items():
            if not isinstance(value, list):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of ``folder/metrics.jsonl``, without a last one that a kill cut off."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]
