"""Volumes on the node's own disk: copied once, shared, removed by the last, and left where they lie if that fails."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep.paths import pair_path
from data_prep.split import Segment, Split
from data_prep.store import Pair
from jobs.stages.staging import staged
from tests.full_disk import small_disk

SPLIT = Split(
    "patients",
    {"train": [Segment("toy", "a", 0, 8), Segment("toy", "a", 8, 16)], "validation": [Segment("toy", "b", 0, 16)],
     "test": [Segment("toy", "c", 0, 16)]},
)  # fmt: skip


@pytest.fixture
def data(make_pair: Callable[..., Path]) -> Path:
    for scan in "abc":
        folder = make_pair(scan, 16)
    return folder


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def read(data: Path, scan: str) -> np.ndarray:
    return Pair(pair_path(data, "toy", scan)).read("low_dose", 0, 16)


def test_what_a_training_reads_is_copied_and_removed_by_the_last(
    data: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with staged(data, SPLIT, 1.0) as first:
        assert first.is_relative_to(disk)
        assert first.stat().st_mode & 0o077 == 0
        for scan in "ab":
            assert np.array_equal(read(first, scan), read(data, scan))
        assert not pair_path(first, "toy", "c").exists()
        written = {path: path.stat().st_mtime_ns for path in first.rglob("zarr.json")}
        with staged(data, SPLIT, 1.0) as second:
            assert second == first
        assert {path: path.stat().st_mtime_ns for path in first.rglob("zarr.json")} == written
    assert not first.exists()
    assert capsys.readouterr().out.count(f"volumes are read from {first}") == 2


def test_a_pair_that_was_made_again_is_copied_again(data: Path, disk: Path, make_pair: Callable[..., Path]) -> None:
    with staged(data, SPLIT, 1.0) as staged_data:
        before = read(staged_data, "a")
        make_pair("a", 16, seed=1)
        assert not np.array_equal(read(data, "a"), before)
        with staged(data, SPLIT, 1.0):
            assert np.array_equal(read(staged_data, "a"), read(data, "a"))


@pytest.fixture
def full_disk(disk: Path) -> Iterator[Path]:
    with small_disk(disk, "size=64k"):
        yield disk


def test_a_full_disk_is_told_and_leaves_them_where_they_lie(
    data: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with staged(data, SPLIT, 1.0) as staged_data:
        assert staged_data == data
    assert "No space left on device" in capsys.readouterr().out
    assert not [path for path in full_disk.glob("*/*") if path.is_dir()]


def test_larger_volumes_than_allowed_stay(data: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with staged(data, SPLIT, 1e-6) as staged_data:
        assert staged_data == data
    assert "and local_disk_gib is 1e-06" in capsys.readouterr().out


def test_without_a_folder_of_the_node_they_stay(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    with staged(data, SPLIT, 1.0) as staged_data:
        assert staged_data == data
    assert "TMPDIR names no folder of this node" in capsys.readouterr().out
    with staged(data, SPLIT, None) as staged_data:
        assert staged_data == data
    assert not capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("kind", ["folder of another user", "link", "folder that others can write"])
def test_a_folder_that_another_user_put_there_is_left_alone(
    kind: str, data: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.chmod(0o1777)
    folder, elsewhere = disk / f"quarterdose-volumes-{os.geteuid()}", disk / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o777 if "others" in kind else 0o700)
        os.chown(folder, 0 if "others" in kind else 65534, 0)
    with staged(data, SPLIT, 1.0) as staged_data:
        assert staged_data == data
    assert "has no room for a folder that this user alone can read and write" in capsys.readouterr().out
    assert not [*folder.iterdir(), *elsewhere.iterdir()]
