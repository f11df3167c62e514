"""Benchmarks of reading training volumes from disk: 16 slices of a real scan, full dose and low dose, in page cache.

Without the sample (``quarterdose fetch sample``) they cannot run. Its low dose is the scan with Gaussian
noise of SD 40 HU: enough for speed and size, and for nothing else.
"""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from skimage import io

from data_prep.sources.sample import sample_path
from data_prep.store import Pair
from tests.bench.timing import Timed, medians
from tests.pairs import ARRAYS, write_pair

Hu = NDArray[np.int16]
GROUPED, STRIDED = range(50, 66), range(0, 128, 8)
ROUNDS = 15


def load_grouped() -> tuple[float, float]:
    """16 neighbouring slices, against one float32 TIFF a slice, read and concatenated one by one."""
    return medians(_ours(GROUPED), lambda: [_published(name, GROUPED) for name in ARRAYS], ROUNDS)


def load_grouped_memmap() -> tuple[float, float]:
    """16 neighbouring slices, against a copy out of a raw ``np.memmap``."""
    return medians(_ours(GROUPED), lambda: [np.array(_mapped(name)[50:66]) for name in ARRAYS], ROUNDS)


def load_strided() -> tuple[float, float]:
    """Every 8th slice, against TIFF as in :func:`load_grouped`."""
    return medians(_ours(STRIDED), lambda: [_published(name, STRIDED) for name in ARRAYS], ROUNDS)


def load_strided_memmap() -> tuple[float, float]:
    """Every 8th slice, against a copy out of a raw ``np.memmap``."""
    return medians(_ours(STRIDED), lambda: [np.array(_mapped(name)[0:128:8]) for name in ARRAYS], ROUNDS)


def _ours(slices: Sequence[int]) -> Timed:
    """Into memory that is used again, as training does."""
    pair = Pair(zarr_folder() / "a.zarr")
    memory = np.empty((2, len(slices), *pair.shape[1:]), np.int16)
    return lambda: pair.read_slices(slices, memory)


def _published(name: str, slices: Sequence[int]) -> NDArray[np.float32]:
    volume = np.empty((0, 512, 512), np.float32)
    for z in slices:
        image = io.imread(zarr_folder() / name / f"{z}.tif")
        volume = np.concatenate([volume, image[None]])
    return volume


@cache
def _mapped(name: str) -> Hu:
    return np.memmap(zarr_folder() / f"{name}.raw", np.int16, "r").reshape(-1, 512, 512)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def scratch(name: str) -> Path:
    """A fresh, empty folder of that name, which goes with the process."""
    folder = Path(_scratch().name) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@cache
def zarr_folder() -> Path:
    """The same pair as Zarr (``a.zarr``), as TIFFs and raw."""
    folder, arrays = scratch("pair"), _arrays()
    write_pair(folder / "a.zarr", arrays, (2.5, 0.7, 0.7), {})
    for name, hu in arrays.items():
        hu.tofile(folder / f"{name}.raw")
        (folder / name).mkdir()
        for z in sorted({*GROUPED, *STRIDED}):
            io.imsave(folder / name / f"{z}.tif", hu[z].astype(np.float32), check_contrast=False)
    return folder


def _arrays() -> dict[str, Hu]:
    voxels = np.asanyarray(nib.nifti1.Nifti1Image.from_filename(sample_path()).dataobj)
    full = voxels.transpose(2, 1, 0).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 40, full.shape)
    return {"full_dose": full, "low_dose": np.clip(full + noise, -1024, 3071).astype(np.int16)}
