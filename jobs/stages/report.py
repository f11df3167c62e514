"""The report: tables, figures and one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.engine.graph import Graph
from jobs.engine.stage import Ref, Stage
from jobs.stages.evaluate import Evaluate
from jobs.stages.train import CellStage
from pipeline.settings.cells import cells_of
from pipeline.training.world import World

TABLES = ("cells", "epochs", "speedup", "laws", "attribution", "variance", "variance_tests", "projection", "unlike",
          "quality", "quality_scans", "quality_datasets", "quality_tests", "nps", "transfer", "table2",
          "accounting")  # fmt: skip
FILES = (*(f"{name}.csv" for name in TABLES), "table2.md", "table2.tex", "summary.txt", "index.html")
"""What every report has; which figures it has depends on what was trained."""


class MakeReport(Stage):
    """One item; made from what there is, so a partial study gives a partial report.

    ``stages``: all before it, of which it accounts.
    """

    name: ClassVar[str] = "report"
    accepts_failed_inputs: ClassVar[bool] = True
    concludes: ClassVar[bool] = True

    def __init__(self, trained: Sequence[CellStage], evaluate: Evaluate, stages: Sequence[Stage]) -> None:
        super().__init__(evaluate.folder)
        cells = cells_of(self.settings)
        self.trained = {cell.id: (stage, cell) for cell in cells for stage in trained if cell.id in stage.cells}
        self.evaluate, self.graph = evaluate, Graph([*stages, self])

    def items(self) -> list[str]:
        """One."""
        return ["report"]

    def reads(self, item: str) -> Mapping[str, Any]:
        """Nothing but its inputs."""
        return {}

    def inputs(self, item: str) -> list[Ref]:
        """Every training and every judged network."""
        trained = [(stage.name, cell) for cell, (stage, _) in self.trained.items()]
        return [*trained, *(("evaluate", judged) for judged in self.evaluate.items())]

    def outputs(self, item: str) -> list[Path]:
        """Tables, the summary and the page."""
        return [self.folder.report / name for name in FILES]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write the report folder."""
        from jobs.stages.accounting import accounting_table
        from pipeline.report import write_report

        trained = self.trained.items()
        states = {cell: self._state(stage, cell) for cell, (stage, _) in trained}
        cells = [settings for _, (_, settings) in trained]
        accounting = accounting_table(self.folder, self.graph)
        return write_report(self.folder.root, self.settings, cells, states, self.evaluate.judged(), accounting)

    def _state(self, stage: Stage, cell: str) -> tuple[str, str]:
        marker = stage.markers.read(cell)
        return (marker.state, marker.reason) if marker else ("missing", "not trained")
