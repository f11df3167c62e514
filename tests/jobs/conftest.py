"""One whole run for all tests of a session."""

import pytest

from tests.shared_runs import fill_once
from tests.toy_runs import SETTINGS, Toy, whole_run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A whole run, to be compared with and to be copied: nobody runs anything in it."""
    return Toy(fill_once(tmp_path_factory, "undisturbed", lambda folder: whole_run(folder, SETTINGS)), SETTINGS)
