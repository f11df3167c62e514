"""What every test has: one thread, a key and a cache of its own, the real sample, small synthetic scans."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from data_prep.errors import UserError
from data_prep.readers.nifti import open_nifti
from data_prep.sources.sample import fetch_sample
from data_prep.sources.sample import sample_path as sample_path_of_user
from data_prep.volume import CTVolume
from tests.pairs import write_toy_pair
from tests.scans import chest, write_nifti
from tests.searches import Searching, searching
from tests.shared_runs import fill_once
from tests.toy_runs import SETTINGS, Toy, make_toy_scan, whole_run

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: kernels then run on CPUs
with suppress(ModuleNotFoundError):  # `make gpu` runs without the packages of other tests
    from hypothesis import settings

    settings.register_profile("quarterdose", deadline=None)  # shared machines are slow at times
    settings.load_profile("quarterdose")
SAMPLE_FOLDER = sample_path_of_user().parent
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's background jobs inherit it: all would be deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup: the commands that tests start must hear it
    signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.hookimpl(optionalhook=True)  # pytest without pytest-xdist does not know it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from tests.scheduling import GroupScheduling

    return GroupScheduling(config, log)


def pytest_collection() -> None:
    gc.disable()  # modules make no garbage, and the search for it took 30 % of the time in which tests are collected


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_umask_and_environment() -> Iterator[None]:
    """The command line sets them for its process."""
    umask, safe_path = os.umask(0o022), os.environ.get("PYTHONSAFEPATH")
    yield
    os.umask(umask)
    if safe_path is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def _own_key_and_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = tmp_path_factory.getbasetemp() / "homes"  # pytest lists all folders beside it for each new one
    homes.mkdir(exist_ok=True)
    home = Path(mkdtemp(dir=homes))
    (home / "config").mkdir()
    (home / "cache" / "quarterdose").mkdir(parents=True)
    SAMPLE_FOLDER.mkdir(parents=True, exist_ok=True)
    (home / "cache" / "quarterdose" / "sample").symlink_to(SAMPLE_FOLDER)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))  # fonts are listed once


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The real sample, LIDC-IDRI-0001; downloaded once."""
    try:
        return fetch_sample()
    except UserError as error:
        pytest.skip(f"sample LIDC-IDRI-0001 is missing: {error}")


@pytest.fixture(scope="session")
def sample(sample_path: Path) -> CTVolume:
    return open_nifti(sample_path).load()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A whole run, to be compared with and to be copied: nobody runs anything in it."""
    return Toy(fill_once(tmp_path_factory, "undisturbed", lambda folder: whole_run(folder, SETTINGS)), SETTINGS)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searching:
    """A search by one worker that nobody disturbed: nobody runs anything in it."""

    def fill(folder: Path) -> None:
        make_toy_scan(folder)
        Searching(folder, searching(workers=1)).search()

    return Searching(fill_once(tmp_path_factory, "searched", fill), searching(workers=1))


@pytest.fixture
def make_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy chest as NIfTI: ``make_nifti(name, slices, side)``."""

    def write(name: str = "toy.nii.gz", slices: int = 48, side: int = 64) -> Path:
        path = tmp_path / "scans" / name
        write_nifti(path, chest(slices, side))
        return path

    return write


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy pair ``data/toy/<scan>.zarr``: ``make_pair(scan, slices)``; returns ``data``."""

    def write(scan: str = "a", slices: int = 48, side: int = 64, seed: int = 0) -> Path:
        return write_toy_pair(tmp_path / "data", scan, slices, side, seed)

    return write
