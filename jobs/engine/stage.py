"""A stage: one step from scans to report, divided into items that each end with a marker."""

import re
from abc import ABC, abstractmethod
from collections import defaultdict
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
    """One step from scans to report. Heavy imports belong inside :meth:`run`, so that commands start quickly."""

    name: str
    version: ClassVar[int] = 1
    """Raised when the same settings and inputs give another result, so that all items are run again."""
    uses_ranks: ClassVar[bool] = False
    """Whether the ranks of one job do an item together; else worker processes share the items."""
    shares_job: bool = False
    """Whether items that use ranks run one after the other in one job; else each is a job."""
    uses_gpu: ClassVar[bool] = False
    """Whether worker processes use a GPU where there is one."""
    uses_search: ClassVar[bool] = False
    """Whether the items are known only after :meth:`find_items`."""
    gathers: ClassVar[str] = ""
    """Name of the stage of which each item needs all items, also those that are still to be found."""
    accepts_failed_inputs: ClassVar[bool] = False
    """Whether an item runs although some of its inputs failed."""
    is_lenient: bool = False
    """Whether a single success is enough for the run to go on; then its jobs also start after failed ones."""
    keeps_refusals: ClassVar[bool] = False
    """Whether what :meth:`reads` returns decides alone on a refusal; else a refused item is tried again by each run."""
    resumes: ClassVar[bool] = False
    """Whether an unfinished item goes on with the files that it left."""
    concludes: ClassVar[bool] = False
    """Whether it runs even where a stage before it failed, to show what became of the run."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that :meth:`run` imports in many processes."""
    private: ClassVar[bool] = False
    """Whether the text of an error may hold names of patients or of their files, and must not be written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.settings = folder, folder.settings
        self.markers = Markers(folder.root, self.name)

    def find_items(self, progress: Progress) -> str:
        """Search for the items, or check before a run what they need; return what was found, as a line for people.

        Raises:
            UserError: the run cannot work with these settings.
        """
        return ""

    def is_searched(self) -> bool:
        """Whether :meth:`items` answers without a search: :meth:`find_items` was called before, or nothing uses it."""
        return True

    @abstractmethod
    def items(self) -> list[str]:
        """List the names of the items, fit for file names."""

    def start_order(self, items: Sequence[str]) -> Sequence[str]:
        """Return the items in the order in which they are to start."""
        return items

    @abstractmethod
    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Do one item, in each rank of ``world``; return what rank 0 writes into its marker.

        Raises:
            UserError: the data or settings are at fault; the item is refused.
        """

    def reads(self, item: str) -> Mapping[str, Any]:
        """Collect the settings and other plain values that the item depends on; a change of one runs it again."""
        return {}

    def inputs(self, item: str) -> list[Ref]:
        """List the items of earlier stages that the item depends on; a newer one runs it again."""
        return []

    def needs(self, item: str) -> list[Ref]:
        """List the inputs without whose success the item does not run."""
        return [] if self.accepts_failed_inputs else self.inputs(item)

    def outputs(self, item: str) -> list[Path]:
        """List the files, or Zarr groups, that exist when the item is complete.

        Without one of them, or with one that was changed, the item runs again.
        """
        return []

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        """Return plain values that stand for what later items read: they run again when these change.

        ``result``: of :meth:`run`. ``outputs``: digest of each output.
        """
        return dict(outputs)

    def folders(self, item: str) -> Mapping[Path, str]:
        """Return the folders that the item replaces as a whole.

        With each comes a regular expression for the paths below it that the stage writes.
        """
        return {}

    def partly_written(self, item: str) -> Mapping[Path, str]:
        """Return folders in which a killed writer of the item may have left half of a file.

        With each comes a regular expression for the names of the item's files there.
        """
        names = defaultdict[Path, list[str]](list)
        for path in self.outputs(item):
            names[path.parent].append(re.escape(path.name))
        return {folder: "|".join(patterns) for folder, patterns in names.items()}

    def check_replaceable(self, item: str) -> None:  # noqa: B027 - most outputs are known by the item's marker
        """Check that the outputs of an item that runs again were not changed since.

        Raises:
            UserError: one was.
        """

    def discard(self, item: str) -> None:  # noqa: B027 - most stages keep nothing of an unfinished item
        """Remove what an unfinished item left, because it started with other settings or inputs."""

    def ranks(self, item: str) -> int:
        """Return the number of processes that do the item together."""
        return 1

    def workers(self) -> int:
        """Return the number of processes that share the items."""
        return 1

    def location(self, item: str) -> str:
        """Say where the item's input lies, for the terminal alone: it may hold a patient's name."""
        return f"{self.name}/{item}"

    def allowed_failures(self, count: int) -> int:
        """Return how many of ``count`` items may end without success before the run stops."""
        return max(0, count - 1) if self.is_lenient else 0
