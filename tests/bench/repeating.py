"""A run that has nothing to do."""

import statistics
import subprocess
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.timing import ROUNDS, seconds_of
from tests.command_line import QUARTERDOSE
from tests.toy_runs import SETTINGS, whole_run

LIMIT_SECONDS = 3.0


def second_run() -> tuple[float, float]:
    """Median seconds of the same command again, after a whole toy run."""
    with TemporaryDirectory() as folder:
        toy = whole_run(Path(folder), SETTINGS)
        command = [str(QUARTERDOSE), "run", "toy.yaml"]
        run = partial(subprocess.run, command, cwd=toy.folder, check=True, capture_output=True)
        times = [seconds_of(run) for _ in range(ROUNDS)]
    return statistics.median(times), LIMIT_SECONDS
