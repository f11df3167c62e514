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
from pipeline.training.world import World

FILES = ("trials.csv", "found.yaml", "summary.txt")
SEARCH_PATTERNS = FILES


class SummariseSearch(Stage):
    """Write what the trials of a search reached, also where some of them failed."""

    name = "search-summary"
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
        return [self.folder.search / name for name in FILES]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write the files of the search.

        Raises:
            RunFailed: no trial was trained to its end.
        """
        from pipeline.search.outcome import found_yaml, outcome_lines, trials_table

        trials, folder = read_trials(self.searches), self.folder.search
        with Ledger(folder).recording(SEARCH_PATTERNS):
            write_atomic(folder / "trials.csv", trials_table(trials).to_csv(index=False))
            write_atomic(folder / "found.yaml", found_yaml(self.settings, trials))
            write_atomic(folder / "summary.txt", "\n".join(outcome_lines(self.settings, trials)) + "\n")
        if not any(trial.state == "complete" for trial in trials):
            raise RunFailed("no trial of the search was trained to its end: see search/trials.csv for the reasons")
        return {"trials": len(trials)}
