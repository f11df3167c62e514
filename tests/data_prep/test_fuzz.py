"""Broken bytes, so many each: a reader gives a scan or a reason, and nothing else."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import ScanError, UserError
from data_prep.originals import pair_original
from data_prep.readers.dicom import open_dicom
from data_prep.readers.nifti import open_nifti
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.discovery_cache import find_files, recall
from data_prep.store import Pair
from tests.data_prep.dicom_series import transcode, write_enhanced, write_series
from tests.fuzz import SHARE, broken
from tests.pairs import write_toy_pair
from tests.scans import chest, write_nifti

HEADERS, PAIRS, CACHES = 1500, 500, 1000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on what it reads
SPACING = (2.5, 0.7, 0.7)


def compressed(folder: Path, syntax: str) -> list[Path]:
    import gdcm

    files = write_series(folder, chest(3, 16), SPACING)
    for path in files:
        transcode(path, getattr(gdcm.TransferSyntax, syntax))
    return files


jpeg, jpeg_ls, jpeg_2000, rle = (
    partial(compressed, syntax=name)
    for name in ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless")
)


def enhanced(folder: Path) -> list[Path]:
    write_enhanced(folder / "a.dcm", chest(3, 16), SPACING)
    return [folder / "a.dcm"]


def nifti(folder: Path) -> list[Path]:
    write_nifti(folder / "a.nii", chest(3, 16))
    return [folder / "a.nii"]


def packed(folder: Path) -> list[Path]:
    write_nifti(folder / "a.nii.gz", chest(3, 16))
    return [folder / "a.nii.gz"]


def plain(folder: Path) -> list[Path]:
    return write_series(folder, chest(3, 16), SPACING)


@pytest.mark.parametrize(
    ("write", "inputs"),
    [(plain, 1400), (jpeg, 1300), (jpeg_ls, 1600), (jpeg_2000, 1600), (rle, 1800), (enhanced, 2100), (nifti, 3300),
     (packed, 7900)],
)  # fmt: skip
def test_broken_bytes_only_bring_reasons(write: Callable[[Path], list[Path]], inputs: int, tmp_path: Path) -> None:
    files = write(tmp_path)
    victim = files[len(files) // 2]
    content, reasons = victim.read_bytes(), set[str]()
    for number in range(int(inputs * SHARE)):
        victim.write_bytes(broken(content, np.random.default_rng((7, number))))
        try:
            scan = open_nifti(victim) if write in (nifti, packed) else open_dicom(files)
            assert scan.load().hu.shape[1:] == (512, 512)
        except ScanError as error:
            reasons.add(str(error))
    assert reasons
    assert not any(str(tmp_path) in reason for reason in reasons)


@pytest.mark.parametrize("metadata", ["zarr.json", "low_dose/zarr.json", "low_dose/c/0/0/0"])
def test_broken_pairs_only_bring_reasons(metadata: str, tmp_path: Path) -> None:
    pair = write_toy_pair(tmp_path, "a", 3, 16) / "toy" / "a.zarr"
    content, hu, refused = (pair / metadata).read_bytes(), Pair(pair).read("low_dose"), 0
    for number in range(int(PAIRS * SHARE)):
        (pair / metadata).write_bytes(broken(content, np.random.default_rng((9, number))))
        try:
            original = pair_original(pair)
            slices = np.concatenate([original.read(z)[0][None] for z in range(original.slices)])
            np.testing.assert_array_equal(slices, hu)
        except UserError:
            refused += 1
    assert refused


def test_discovery_survives_broken_headers(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4, 16), SPACING)
    content = files[1].read_bytes()
    for number in range(int(HEADERS * SHARE)):
        files[1].write_bytes(broken(content, np.random.default_rng((8, number))))
        discovery = discover([SourceSettings(kind="dicom", path=tmp_path)])
        assert discovery.series


@pytest.mark.parametrize("folder", ["found", "headers"])
def test_a_broken_cache_is_made_again(folder: str, tmp_path: Path) -> None:
    write_series(tmp_path, chest(4, 16), SPACING)
    sources = [SourceSettings(kind="dicom", path=tmp_path)]
    discovery = discover(sources)
    (cache,) = (Path(os.environ["XDG_CACHE_HOME"]) / "quarterdose" / folder).iterdir()
    content = cache.read_bytes()
    for number in range(int(CACHES * SHARE)):
        cache.write_bytes(broken(content, np.random.default_rng((11, number))))
        if folder == "found":
            assert recall(sources) is None or cache.read_bytes() == content
            find_files(discovery.series[0].scan)
        assert discover(sources) == discovery
        assert cache.read_bytes() == content
