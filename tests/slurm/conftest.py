"""A real Slurm for the tests."""

from collections.abc import Iterator

import pytest

from slurm.devcluster import Cluster, Shape
from tests.slurm.clusters import PORT, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """4 nodes with 2 CPUs and 4 counted GPUs each, and accounting; ``SLURM_CONF`` names it."""
    with running(Shape(nodes=4, cpus=2, gpus=4, port=PORT)) as up:
        yield up
