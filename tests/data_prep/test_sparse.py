import errno
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.lowdose import sparse
from data_prep.lowdose.sparse import Table, cached

ROWS = 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tables go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"quarterdose-tables-{os.getuid()}"


def double(log: Path, rows: int = ROWS) -> Table:
    """A table that doubles its input; each time it is made leaves a line."""
    with log.open("a") as lines:
        lines.write("made\n")
    return Table.of(torch.arange(rows), torch.full((rows,), 2.0), torch.ones(rows, dtype=torch.int64))


def times_made(log: Path) -> int:
    return len(log.read_text().splitlines())


def is_double(table: Table) -> bool:
    rows = len(table.starts)
    return torch.equal(table(torch.arange(float(rows))[:, None])[:, 0], 2 * torch.arange(float(rows)))


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_a_table_is_a_sparse_matrix() -> None:
    table = Table.of(torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2, 0, 1]))
    dense = torch.tensor([[1.0, 0, 2], [0, 0, 0], [0, 5, 0]])
    columns = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(table(columns), dense @ columns)


def test_a_table_is_made_once_and_mapped_afterwards(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    held = [cached(double, log)]
    if Path("/proc/self/maps").exists():
        assert str(folder) in Path("/proc/self/maps").read_text()  # also of who made it
    held += [cached(double, log) for _ in range(2)]
    assert all(is_double(table) for table in held)
    assert times_made(log) == 1
    assert is_double(cached(double, log, 10))
    assert times_made(log) == 2
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("length", [0, 64, 1000])
@pytest.mark.parametrize("part", ["indices", "weights", "starts"])
def test_a_damaged_entry_is_made_anew(folder: Path, tmp_path: Path, part: str, length: int) -> None:
    log = tmp_path / "log"
    cached(double, log)
    os.truncate(entries(folder)[0] / f"{part}.npy", length)
    assert is_double(cached(double, log))
    assert is_double(cached(double, log))
    assert times_made(log) == 2


def test_a_folder_of_somebody_else_is_left_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(Path, "lstat", lambda path: os.stat_result((0o40700, 0, 0, 1, owner + 1, 0, 0, 0, 0, 0)))
    assert is_double(cached(double, tmp_path / "log"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_open_to_others_is_left_alone(folder: Path, tmp_path: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    assert is_double(cached(double, tmp_path / "log"))
    assert list(folder.iterdir()) == []


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert is_double(cached(double, tmp_path / "log"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_leaves_the_table_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert is_double(cached(double, tmp_path / "log"))
    assert times_made(tmp_path / "log") == 1
    assert entries(folder) == []


def test_the_entries_unused_for_longest_make_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two tables of 12 bytes a row: of three the second goes, as the first was used again."""
    monkeypatch.setattr(sparse, "MAX_BYTES", int(2.5 * 12 * ROWS))
    log = tmp_path / "log"
    tables = [cached(double, log, ROWS + k) for k in range(2)]
    for age, entry in enumerate(sorted(entries(folder), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(entry, (age, age))
    cached(double, log, ROWS)
    cached(double, log, ROWS + 2)
    assert len(entries(folder)) == 2
    assert all(is_double(table) for table in tables)  # removed, but still mapped
    cached(double, log, ROWS)
    assert times_made(log) == 3
    cached(double, log, ROWS + 1)
    assert times_made(log) == 4


def test_what_killed_writers_left_goes_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MAX_BYTES", int(1.5 * 12 * ROWS))
    cached(double, tmp_path / "log")
    (entry,) = entries(folder)
    left = folder / f".{entry.name}.{'0' * 32}.tmp"
    shutil.copytree(entry, left)
    os.utime(left, (1, 1))
    cached(double, tmp_path / "log", ROWS + 1)
    assert not left.exists()
    assert len(entries(folder)) == 1


def test_tables_of_another_version_are_not_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(double, tmp_path / "log")
    monkeypatch.setattr(sparse, "VERSION", sparse.VERSION + 1)
    cached(double, tmp_path / "log")
    assert times_made(tmp_path / "log") == 2
    assert len(entries(folder)) == 2


def slowly(log: Path) -> Table:
    time.sleep(1)
    return double(log)


def use(temporary: str, log: Path) -> bool:
    tempfile.tempdir = temporary
    return is_double(cached(slowly, log))


@pytest.mark.slow
def test_of_two_processes_at_once_one_makes_the_table(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(use, [(str(tmp_path), tmp_path / "log")] * 2, chunksize=1) == [True, True]
    assert times_made(tmp_path / "log") == 1
