"""Judging: the low-dose input, a classical denoiser and every trained network on the held-out scans."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.engine.stage import Ref, Stage
from jobs.stages.prepare import read_split
from jobs.stages.train import CellStage
from pipeline.settings.names import LOW_DOSE_INPUT, TOTAL_VARIATION
from pipeline.training.world import World


class Evaluate(Stage):
    """Items are ``low-dose``, the baseline; ``tv``; and the ids of cells that are no control arms."""

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 6
    uses_gpu: ClassVar[bool] = True
    is_lenient: ClassVar[bool] = True

    def __init__(self, trained: list[CellStage]) -> None:
        super().__init__(trained[0].folder)
        cells = [(stage, cell) for stage in trained for cell in stage.cells.values()]
        self.cells = {cell.id: (stage, cell) for stage, cell in cells if cell.arm == "full"}

    def workers(self) -> int:
        """As set."""
        return self.settings.evaluate.workers

    def items(self) -> list[str]:
        """The baseline first."""
        return [LOW_DOSE_INPUT, TOTAL_VARIATION, *self.cells]

    def reads(self, item: str) -> Mapping[str, Any]:
        """How is judged."""
        return self.settings.evaluate.model_dump(mode="json", exclude={"workers"})

    def inputs(self, item: str) -> list[Ref]:
        """The split, and the cell's training."""
        return [("split", "split"), *([(self.cells[item][0].name, item)] if item in self.cells else [])]

    def outputs(self, item: str) -> list[Path]:
        """Rows by slice and by scan, and an example."""
        endings = (".json", ".scans.json", ".npz")
        return [self.folder.evaluation(item).with_name(f"{item}{ending}") for ending in endings]

    def discard(self, item: str) -> None:
        """Drop the scans that were judged on other terms."""
        shutil.rmtree(self.folder.evaluation(item), ignore_errors=True)

    def judged(self) -> list[str]:
        """Items that were judged as they are now: of networks, none of an earlier, other training."""
        return [item for item in self.items() if self._judged(item)]

    def _judged(self, item: str) -> bool:
        marker = self.markers.read(item)
        if marker is None or marker.state != "done":
            return False
        if item not in self.cells:
            return True
        trained = self.cells[item][0].markers.read(item)
        return trained is not None and trained.state == "done" and trained.finished < marker.finished

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Judge one denoiser."""
        from pipeline.evaluate.denoisers import classical, input_itself, network
        from pipeline.evaluate.judgement import evaluate

        settings, data = self.settings.evaluate, self.folder.data
        found = read_split(self).parts
        parts = {part: found[part] for part in settings.parts}
        result: dict[str, Any] = {}
        if item == LOW_DOSE_INPUT:
            denoiser = input_itself(settings)
        elif item == TOTAL_VARIATION:
            denoiser, result["strength_hu"] = classical(data, found["validation"], settings)
        else:
            denoiser = network(self.cells[item][1], self.folder.cell(item), settings)
        return {**result, **evaluate(denoiser, data, parts, settings, self.folder.evaluation(item), progress)}
