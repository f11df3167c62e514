"""The report: tables, figures and one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.evaluate import Evaluate
from jobs.stage import Ref, Stage
from pipeline.training.world import World


class MakeReport(Stage):
    """One item; made from what there is, so a partial study gives a partial report."""

    name: ClassVar[str] = "report"
    any_input: ClassVar[bool] = True

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate.folder)
        self.evaluate = evaluate

    def items(self) -> list[str]:
        """One."""
        return ["report"]

    def reads(self, item: str) -> Mapping[str, Any]:
        """Nothing but its inputs."""
        return {}

    def inputs(self, item: str) -> list[Ref]:
        """Every training and every judged network."""
        trained = [(stage.name, cell) for cell, (stage, _) in self.evaluate.cells.items()]
        return [*trained, *(("evaluate", judged) for judged in self.evaluate.items())]

    def outputs(self, item: str) -> list[Path]:
        """The page; the rest lies beside it."""
        return [self.folder.report / "index.html"]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write the report folder."""
        from pipeline.report import write_report

        trained = self.evaluate.cells.items()
        states = {cell: self._state(stage, cell) for cell, (stage, _) in trained}
        cells = [settings for _, (_, settings) in trained]
        return write_report(self.folder.root, self.settings, cells, states)

    def _state(self, stage: Stage, cell: str) -> tuple[str, str]:
        marker = stage.markers.read(cell)
        return (marker.state, marker.reason) if marker else ("missing", "not trained")
