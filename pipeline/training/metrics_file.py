"""``metrics.jsonl``, the record of a training's progress: one JSON object a line, written by rank 0."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from data_prep.errors import UserError
from data_prep.files import naming_full_disk, write_atomic

Part = Literal["data", "forward", "backward", "exchange", "optimiser"]
PARTS: tuple[Part, ...] = ("data", "forward", "backward", "exchange", "optimiser")
"""Parts of a training step, of which each line has the seconds."""

Lines = Mapping[str, Sequence[dict[str, Any]]]
"""Lines of the ``metrics.jsonl`` of each training, by its id."""


class MetricsFile:
    """Appends lines to ``folder/metrics.jsonl`` and the same numbers to TensorBoard.

    The file is written anew from ``lines``, which the checkpoint of step ``step`` holds: what a process that was
    killed wrote after it is dropped, as these steps are taken again, and what was changed in the file is mended.
    """

    def __init__(self, folder: Path, lines: Iterable[str], step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # torch, which reports are spared

        self._folder, path = folder, folder / "metrics.jsonl"
        self.lines = list(lines)
        write_atomic(path, "".join(f"{line}\n" for line in self.lines))
        self._handle = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Append one line and flush it; lists are not sent to TensorBoard."""
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **values})
        self.lines.append(line)
        with naming_full_disk(self._folder):
            self._handle.write(f"{line}\n")
            self._handle.flush()
            for name, value in values.items():
                if not isinstance(value, list):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming_full_disk(self._folder):
            self._handle.close()
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of ``folder/metrics.jsonl``, without a last one that a kill cut off.

    Raises:
        UserError: a line was cut or changed.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    try:
        return [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise UserError(f"{path} was cut or changed: run the training again, which writes it anew") from error
