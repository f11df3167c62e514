"""The jobs of a run that were put in Slurm's queue: a line for each submission in ``queue.jsonl``."""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import write_atomic
from data_prep.seal import BrokenSeal, sealed, unsealed
from jobs.engine.graph import Graph
from slurm.accounting import Allocation, allocations
from slurm.commands import check_cluster
from slurm.states import JobState, job_states

ALL_ITEMS = "*"
"""In place of a stage's items that are still to be found by a search."""
FIND = "find"
"""Name of the job that searches for items."""


@dataclass(frozen=True)
class Submission:
    """Jobs of a stage: one job with one item, or arrays whose tasks share the items.

    The line has these fields as keys. ``jobs``: ids of jobs or arrays, with ``tasks`` processes in all and ``gpus``
    GPUs a job, or a task of an array; ``at``: Unix time; ``cluster``: its name; ``folder``: of the run that they work
    in. Both are empty in records of earlier versions.
    """

    stage: str
    items: tuple[str, ...]
    jobs: tuple[str, ...]
    tasks: int
    gpus: int
    at: float
    cluster: str = ""
    folder: str = ""


class Submissions:
    """The submissions of one run folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._file = self._root / "queue.jsonl"

    def add(
        self, stage: str, items: Sequence[str], jobs: Sequence[str], tasks: int, gpus: int, cluster: str = ""
    ) -> Submission:
        """Record a submission, at this time; return it."""
        submission = Submission(stage, tuple(items), tuple(jobs), tasks, gpus, time.time(), cluster, str(self._root))
        self._write([*self.read(), submission])
        return submission

    def remove(self, submissions: Sequence[Submission]) -> None:
        """Forget submissions that were taken back."""
        remaining = [submission for submission in self.read() if submission not in submissions]
        if remaining:
            self._write(remaining)
        else:
            self._file.unlink(missing_ok=True)

    def _write(self, submissions: Sequence[Submission]) -> None:
        write_atomic(self._file, "".join(json.dumps(sealed(asdict(submission))) + "\n" for submission in submissions))

    def read(self) -> list[Submission]:
        """Read all submissions, the oldest first.

        Raises:
            UserError: a line was cut or changed.
        """
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        return [self._submission(number, line) for number, line in enumerate(lines, start=1)]

    def of_this_folder(self) -> list[Submission]:
        """Read the submissions whose jobs work in this run folder, not in one that it was copied from.

        Jobs of a folder that is gone count as its own: it was renamed.

        Raises:
            UserError: a line was cut or changed.
        """
        return [submission for submission in self.read() if not self._is_elsewhere(submission)]

    def _is_elsewhere(self, submission: Submission) -> bool:
        folder = Path(submission.folder or self._root)  # which may have another path by now
        return (folder / self._file.name).exists() and not folder.samefile(self._root)

    def _submission(self, number: int, line: bytes) -> Submission:
        try:
            record = unsealed(json.loads(line))
        except (ValueError, BrokenSeal) as error:
            raise UserError(
                f"{self._file}: line {number} was cut or changed, so jobs in Slurm's queue may be overlooked: see with "
                "`squeue` what still runs, and remove the line"
            ) from error
        return Submission(**{**record, "items": tuple(record["items"]), "jobs": tuple(record["jobs"])})


def states_of(submissions: Collection[Submission]) -> dict[str, JobState]:
    """Ask Slurm for the states of the jobs of submissions, by the ids that squeue shows.

    Raises:
        SlurmError: Slurm does not answer, or another cluster has them.
    """
    times = _times_of(submissions)
    return job_states(list(times), times)


def allocations_of(submissions: Collection[Submission]) -> list[Allocation] | None:
    """Ask for what was allocated to the jobs of submissions; None on a cluster without accounting.

    Raises:
        SlurmError: accounting does not answer, or another cluster has them.
    """
    times = _times_of(submissions)
    return allocations(list(times), times) if times else []


def _times_of(submissions: Collection[Submission]) -> dict[str, float]:
    """Return when each job was submitted, by its id.

    Raises:
        SlurmError: another cluster has them: the numbers are those of other jobs here.
    """
    check_cluster({submission.cluster for submission in submissions if submission.cluster})
    return {job: submission.at for submission in submissions for job in submission.jobs}


def items_of(graph: Graph, submission: Submission) -> Sequence[str]:
    """List the items of a submission; where they were unknown at that time, all that the stage has now."""
    return graph.stages[submission.stage].items() if ALL_ITEMS in submission.items else submission.items
