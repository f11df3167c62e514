"""A search on a real Slurm, of which driver, worker and node are killed: its trials are those of an undisturbed one."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from slurm.devcluster import Cluster
from tests.searches import Searching, assert_same_trials, searching
from tests.slurm.queued import WHOLE, Queued, bytes_of
from tests.toy_runs import any_file, make_toy_scan, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.whole]


class QueuedSearch(Searching, Queued):
    """A search on a cluster."""

    def kill_submission(self) -> None:
        """Kill the command when some of the jobs are in the queue."""
        with subprocess.Popen(self.command("--on", "cluster.yaml"), cwd=self.folder) as process:
            wait_for((self.run_folder / "queue.jsonl").exists, WHOLE)
            process.kill()

    def await_trial(self, trial: str, pattern: str) -> None:
        wait_for(lambda: any_file(self.trial(trial), pattern), WHOLE)


def test_a_search_of_which_driver_worker_and_node_are_killed_ends_with_the_same_trials(
    tmp_path: Path, searched: Searching, cluster: Cluster
) -> None:
    toy = QueuedSearch(tmp_path, searching(), cluster)
    make_toy_scan(tmp_path)
    toy.kill_submission()
    toy.submit()
    stages = [submission["stage"] for submission in toy.submissions()]
    assert stages[-2:] == ["search-2-2", "search-summary"]
    assert len(set(stages)) == len(stages)
    toy.await_trial("a-t0000", "checkpoints/*.pt")
    os.kill(worker_of(toy, "search-1-1"), signal.SIGKILL)
    toy.await_trial("b-t0002", "metrics.jsonl")
    (node, *_) = toy.nodes(toy.job("search-2-1"))
    cluster.stop_node(node, hard=True)
    wait_for(lambda: toy.nodes(toy.job("search-2-1")) not in ([], [node]) or not toy.queued(), 300, pause=0.2)
    toy.await_end()
    cluster.start_node(node)
    status = toy.tell("status")
    assert "requeued 1 x" in status
    assert_same_trials(toy, searched)


def worker_of(toy: Queued, stage: str) -> int:
    """Return the process of the first task of a stage's array."""
    job = b"SLURM_ARRAY_JOB_ID=" + toy.job(stage).encode()
    pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"slurm.calls" in bytes_of(path) and b"srun" not in bytes_of(path)
            and job in bytes_of(path.with_name("environ")).split(b"\0")]  # fmt: skip
    return min(pids)
