"""What of a run was put in Slurm's queue: a line each in ``queue.jsonl``."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Submission:
    """Jobs of a stage: one job with one item, or arrays whose tasks share the items among them.

    ``jobs``: ids of jobs or arrays, each of so many ``tasks`` in all. ``at``: Unix time.
    """

    stage: str
    items: tuple[str, ...]
    jobs: tuple[str, ...]
    tasks: int
    gpus: int
    at: float


class Submissions:
    """Those of one run folder."""

    def __init__(self, root: Path) -> None:
        self._file = root / "queue.jsonl"

    def add(self, stage: str, items: Sequence[str], jobs: Sequence[str], tasks: int, gpus: int) -> Submission:
        """Note what was submitted."""
        made = Submission(stage, tuple(items), tuple(jobs), tasks, gpus, time.time())
        with self._file.open("a") as lines:
            lines.write(json.dumps(asdict(made)) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        return made

    def all(self) -> list[Submission]:
        """In the order in which they were submitted; a line that was cut off by a crash is none."""
        try:
            lines = self._file.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [Submission(**{**one, "items": tuple(one["items"]), "jobs": tuple(one["jobs"])}) for one in found]
