"""A stage: items that are done one by one, each marked when it is complete."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep.progress import Progress
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from pipeline.training.world import World

Ref = tuple[str, str]
"""A stage's name and one of its items."""


class Stage(ABC):
    """One step of the way from scans to report. Heavy imports belong inside :meth:`run`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    own_job: ClassVar[bool] = False
    """Whether each item is a job of its own ranks; else workers share the items."""
    in_one_job: bool = False
    """Whether items with ranks of their own share one job, one after the other."""
    any_input: ClassVar[bool] = False
    """Whether an item runs although some of its inputs failed."""
    uses_search: ClassVar[bool] = False
    """Whether the items are known only after :meth:`find_items`."""
    gathers: ClassVar[str] = ""
    """Name of the stage of which each item needs all items, also those that are still to be found."""
    uses_gpu: ClassVar[bool] = False
    """Whether workers use a GPU where there is one."""
    concludes: ClassVar[bool] = False
    """Whether it tells what became of the run, however it went."""
    private: ClassVar[bool] = False
    """Whether an error's text could hold names of patients or of their files, and must not be written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.settings = folder, folder.settings
        self.markers = Markers(folder.root, self.name)

    def find_items(self, progress: Progress) -> str:
        """Search for the items, and check what they need; return what was found, in words."""
        return ""

    def is_searched(self) -> bool:
        """Whether :meth:`items` needs no search any more."""
        return True

    @abstractmethod
    def items(self) -> list[str]:
        """Names of the items, fit for file names."""

    def in_turn(self, items: Sequence[str]) -> Sequence[str]:
        """The items in the order in which they should be begun."""
        return items

    @abstractmethod
    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Do one item; called in every rank of ``world``. Returns what its marker should hold."""

    def reads(self, item: str) -> Mapping[str, Any]:
        """Settings and other plain values that the item depends on."""
        return {}

    def inputs(self, item: str) -> list[Ref]:
        """Items of earlier stages that the item depends on."""
        return []

    def outputs(self, item: str) -> list[Path]:
        """Files or folders that exist when the item is complete."""
        return []

    def discard(self, item: str) -> None:  # noqa: B027 - most stages keep nothing of an unfinished item
        """Drop what was begun of the item, because it now depends on other things."""

    def ranks(self, item: str) -> int:
        """Processes that do the item together."""
        return 1

    def workers(self) -> int:
        """Processes that share the items."""
        return 1

    def place(self, item: str) -> str:
        """Where the item's input lies, for the terminal alone: it may hold a patient's name."""
        return f"{self.name}/{item}"

    def tolerated(self) -> float:
        """Share of items that may end without success before the run stops."""
        return 0.0
