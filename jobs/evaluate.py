"""Judging: the low-dose input and every trained network on the held-out slices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.prepare import read_split
from jobs.stage import Ref, Stage
from jobs.train import CellStage
from pipeline.config import LOW_DOSE_INPUT
from pipeline.training.world import World


class Evaluate(Stage):
    """Items are ``low-dose``, the baseline, and the ids of cells that are no control arms."""

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2
    judges: ClassVar[bool] = True

    def __init__(self, trained: list[CellStage]) -> None:
        super().__init__(trained[0].folder)
        cells = [(stage, cell) for stage in trained for cell in stage.cells.values()]
        self.cells = {cell.id: (stage, cell) for stage, cell in cells if cell.arm == "full"}

    def tolerated(self) -> float:
        """All but the baseline: a network whose training failed cannot be judged."""
        return 0.99

    def items(self) -> list[str]:
        """The baseline first."""
        return [LOW_DOSE_INPUT, *self.cells]

    def reads(self, item: str) -> Mapping[str, Any]:
        """How is judged."""
        return self.settings.evaluate.model_dump(mode="json")

    def inputs(self, item: str) -> list[Ref]:
        """The split, and the cell's training."""
        return [("split", "split"), *([] if item == LOW_DOSE_INPUT else [(self.cells[item][0].name, item)])]

    def outputs(self, item: str) -> list[Path]:
        """A row a slice, and an example."""
        return [self.folder.evaluation(item).with_name(f"{item}{ending}") for ending in (".json", ".npz")]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Judge one network."""
        from pipeline.evaluate import evaluate

        cell = None if item == LOW_DOSE_INPUT else self.cells[item][1]
        test = read_split(self).parts["test"]
        target = self.folder.evaluation(item)
        return evaluate(cell, self.folder.cell(item), self.folder.data, test, self.settings.evaluate, target, progress)
