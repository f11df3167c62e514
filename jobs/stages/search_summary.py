"""The summary of a search: its trials, the settings that were best, figures and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import write_atomic
from data_prep.ledger import Ledger
from data_prep.progress import Progress
from jobs.engine.outcome import RunFailed
from jobs.engine.stage import Ref, Stage
from jobs.stages.search import Search, read_trials
from pipeline.report.files import FIGURE_PATTERNS, SEARCH_FILES, SEARCH_PATTERNS
from pipeline.training.world import World


class SummariseSearch(Stage):
    """Write what the trials of a search reached, also where some of them failed."""

    name = "search-summary"
    version: ClassVar[int] = 2
    accepts_failed_inputs: ClassVar[bool] = True
    concludes: ClassVar[bool] = True

    def __init__(self, searches: Sequence[Search]) -> None:
        super().__init__(searches[0].folder)
        self.searches = searches

    def items(self) -> list[str]:
        return ["summary"]

    def inputs(self, item: str) -> list[Ref]:
        return [(stage.name, trial) for stage in self.searches for trial in stage.items()]

    def reads(self, item: str) -> Mapping[str, Any]:
        return {"settings": self.settings.model_dump(mode="json", exclude={"runs", "share"})}

    def outputs(self, item: str) -> list[Path]:
        figures = (path for pattern in FIGURE_PATTERNS for path in sorted(self.folder.search.glob(pattern)))
        return [*(self.folder.search / name for name in SEARCH_FILES), *figures]

    def partly_written(self, item: str) -> Mapping[Path, str]:
        return dict.fromkeys((self.folder.search, self.folder.search / "figures"), ".*")

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write the files of the search.

        Raises:
            RunFailed: no trial was trained to its end.
        """
        from pipeline.report.search import write_search
        from pipeline.search.journal import write_journal
        from pipeline.search.outcome import found_yaml, outcome_lines

        trials, folder, run = read_trials(self.searches), self.folder.search, self.settings
        assert run.search
        with Ledger(folder).recording(SEARCH_PATTERNS):
            write_atomic(folder / "found.yaml", found_yaml(run, trials))
            write_atomic(folder / "summary.txt", "\n".join(outcome_lines(run, trials)) + "\n")
            write_search(folder, run, trials)
            write_journal(folder / "journal.log", run.search, run.searched, trials)
        if not any(trial.state in ("complete", "unfinished") for trial in trials):
            raise RunFailed("no trial of the search was trained to its end: see search/trials.csv for the reasons")
        return {"trials": len(trials)}
