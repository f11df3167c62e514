"""Dev clusters for the tests."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm.devcluster import Cluster, Shape, missing_packages
from slurm.states import job_states
from tests.toy_runs import wait_for

PORT = 20000 + os.getpid() % 200 * 60  # two sessions, or two clusters of one, do not meet


@contextmanager
def running(shape: Shape) -> Iterator[Cluster]:
    """A cluster in a folder of its own that Slurm's commands find, or a skip that says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("a dev cluster needs root")
    if missing := missing_packages():
        pytest.skip(f"a dev cluster needs: apt-get install {' '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="quarterdose-slurm-"))
    cluster = Cluster(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.environment.items():
                patch.setenv(name, value)
            cluster.up(shape)
            yield cluster
    finally:
        cluster.down(wipe=True)
        shutil.rmtree(folder)


def kill_controller(cluster: Cluster) -> None:
    """End slurmctld by SIGKILL, and wait until it has ended."""
    pid = dict(cluster.daemons())["slurmctld"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: dict(cluster.daemons())["slurmctld"] is None, 10)


def await_saved_state(cluster: Cluster, job: str) -> None:
    """Wait until slurmctld has written that a job runs: it does so within five seconds, or later on a slow disk.

    One that is killed before does not know after its restart that the job has started.
    """
    state, started = cluster.folder / "state" / "job_state", job_states([job])[job].started
    assert started is not None
    if state.stat().st_mtime < started + 2:  # whole seconds
        cluster.command("scontrol", "update", f"jobid={job}", "comment=to be saved")
        changed = time.time()
        wait_for(lambda: state.stat().st_mtime > changed, 60)
