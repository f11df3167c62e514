"""A real Slurm for the tests, and runs of this machine to compare those of the cluster with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.devcluster import Cluster, Shape
from tests.shared_runs import fill_once
from tests.slurm.clusters import PORT, running
from tests.slurm.queued import SPREAD
from tests.toy_runs import Toy, whole_run


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """4 nodes with 2 CPUs and 4 counted GPUs each, and accounting; ``SLURM_CONF`` names it."""
    with running(Shape(nodes=4, cpus=2, gpus=4, port=PORT)) as up:
        yield up


@pytest.fixture(scope="session")
def spread_locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run of this machine with a training of four ranks."""
    return Toy(fill_once(tmp_path_factory, "spread", lambda folder: whole_run(folder, SPREAD)), SPREAD)


@pytest.fixture(autouse=True)
def _jobs_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs take no modules from their working folder, and some make calls of functions in these tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
