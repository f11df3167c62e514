"""The report: tables, figures and one page."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import digest_plain_file
from data_prep.ledger import Ledger
from data_prep.progress import Progress
from jobs.engine.graph import Graph
from jobs.engine.stage import Ref, Stage
from jobs.stages.evaluate import Evaluate
from jobs.stages.train import CellStage
from pipeline.report.files import FIGURE_PATTERNS, FILES, REPORT_PATTERNS
from pipeline.settings.cells import cells_of
from pipeline.training.world import World


class WriteReport(Stage):
    """Write the report of what there is: a partial study gives a partial report.

    Args:
        trainings: the stages whose cells it shows.
        evaluate: the stage that judged them.
        stages: all stages before it, for which it accounts.
    """

    name: str = "report"
    version: ClassVar[int] = 7
    accepts_failed_inputs: ClassVar[bool] = True
    concludes: ClassVar[bool] = True

    def __init__(self, trainings: Sequence[CellStage], evaluate: Evaluate, stages: Sequence[Stage]) -> None:
        super().__init__(evaluate.folder)
        cells = cells_of(self.settings)
        self.cells = {cell.id: (stage, cell) for cell in cells for stage in trainings if cell.id in stage.cells}
        self.evaluate, self.graph = evaluate, Graph([*stages, self])

    def items(self) -> list[str]:
        return ["report"]

    def inputs(self, item: str) -> list[Ref]:
        trainings = [(stage.name, cell) for cell, (stage, _) in self.cells.items()]
        return [("split", "split"), *trainings, *((self.evaluate.name, judged) for judged in self.evaluate.items())]

    def reads(self, item: str) -> Mapping[str, Any]:
        study, budget = self.settings.study, self.settings.budget
        return {
            "data_rate": study.data_rate,
            "include_disturbed": study.include_disturbed,
            "price": budget.gpu_hour_price,
            "currency": budget.currency,
            "formats": list(self.settings.report.formats),
            "manifest": digest_plain_file(self.folder.data / "manifest.csv"),
            "trials": digest_plain_file(self.folder.search / "trials.csv"),
        }

    def outputs(self, item: str) -> list[Path]:
        figures = (path for pattern in FIGURE_PATTERNS for path in sorted(self.folder.report.glob(pattern)))
        return [*(self.folder.report / name for name in FILES), *figures]

    def partly_written(self, item: str) -> Mapping[Path, str]:
        return dict.fromkeys((self.folder.report, self.folder.report / "figures"), ".*")

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        from jobs.stages.accounting import accounting_table
        from pipeline.report.write import write_report

        cells = [cell for _, cell in self.cells.values()]
        accounting = accounting_table(self.folder, self.graph)
        with Ledger(self.folder.report).recording(REPORT_PATTERNS):
            return write_report(
                self.folder.root, self.settings, cells, self.states(), self.evaluate.judged_items(), accounting
            )

    def states(self) -> dict[str, tuple[str, str]]:
        """Return the state of each training, and the reason where it is not done."""
        current = self.evaluate.current()
        return {cell: self._state(stage, cell, current) for cell, (stage, _) in self.cells.items()}

    def _state(self, stage: Stage, cell: str, current: Collection[Ref]) -> tuple[str, str]:
        marker = stage.markers.read(cell)
        if marker is None:
            return "missing", "not trained"
        if marker.state == "done" and (stage.name, cell) not in current:
            return "missing", "not trained with these settings and scans yet"
        return marker.state, marker.reason
