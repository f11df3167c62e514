"""What tests share: the real sample, the files beside the checkout, small synthetic scans."""

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.readers.nifti import open_nifti
from data_prep.sources.sample import fetch_sample
from data_prep.sources.sample import sample_path as sample_path_of_user
from data_prep.volume import CTVolume
from tests.pairs import write_pair

settings.register_profile("quarterdose", deadline=None)  # shared machines are slow at times
settings.load_profile("quarterdose")
SHARED = Path(os.environ.get("QUARTERDOSE_SHARED", Path(__file__).parents[2] / "shared"))
SAMPLE_FOLDER = sample_path_of_user().parent
Hu = NDArray[np.int16]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_key_and_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    cache = tmp_path_factory.mktemp("cache")
    (cache / "quarterdose").mkdir()
    SAMPLE_FOLDER.mkdir(parents=True, exist_ok=True)
    (cache / "quarterdose" / "sample").symlink_to(SAMPLE_FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


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


def shared_file(name: str) -> Path:
    """A file or folder beside the checkout, or a skip that names it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is missing beside the checkout")
    return path


def chest(slices: int, side: int = 64, seed: int = 0) -> Hu:
    """A toy chest in HU: an ellipse of tissue with two lungs, vessels that wander with z."""
    generator = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, side)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    plane = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40.0, -1000.0)
    for centre in (-0.4, 0.4):
        plane[((x - centre) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = -850
    volume = np.repeat(plane[None], slices, axis=0)
    for z in range(slices):
        for cx, cy in generator.uniform(-0.4, 0.4, (6, 2)):
            volume[z][(x - cx) ** 2 + (y - cy) ** 2 < 0.004] = 50
    return volume.round().astype(np.int16)


def write_nifti(path: Path, hu: Hu) -> None:
    """Write a canonical volume as NIfTI with axes L, A, S, as the sample has them."""
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(hu[:, ::-1].transpose(2, 1, 0), np.diag([-0.7, 0.7, 2.5, 1.0]))
    nib.save(image, path)


@pytest.fixture
def make_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy chest as NIfTI: ``make_nifti(name, slices, side)``."""

    def make(name: str = "toy.nii.gz", slices: int = 48, side: int = 64) -> Path:
        path = tmp_path / "scans" / name
        write_nifti(path, chest(slices, side))
        return path

    return make


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy pair ``data/toy/<scan>.zarr``: ``make_pair(scan, slices)``; returns ``data``."""

    def make(scan: str = "a", slices: int = 48, side: int = 64, seed: int = 0) -> Path:
        full = chest(slices, side, seed)
        noise = np.random.default_rng(seed).normal(0, 40, full.shape)
        low = np.clip(full + noise, -1024, 3000).astype(np.int16)
        write_pair(
            tmp_path / "data" / "toy" / f"{scan}.zarr", {"full_dose": full, "low_dose": low}, (2.5, 0.7, 0.7), {}
        )
        return tmp_path / "data"

    return make
