"""Files of a source: which are opened, what is remembered of them, and what becomes of those that cannot be read."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_prep.errors import MachineError, ScanError, UserError
from data_prep.pseudonym import file_pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.folders import hidden_id
from data_prep.sources.images import list_images
from data_prep.sources.series import Discovery
from tests.data_prep.dicom_series import change, write_series
from tests.scans import chest

SPACING = (2.5, 0.703125, 0.703125)


def find(path: Path) -> Discovery:
    return discover([SourceSettings(kind="dicom", path=path)])


def test_a_second_look_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = write_series(tmp_path / "scans", chest(6), SPACING)
    read: list[int] = []
    first, _ = list_images(tmp_path / "scans", hidden_id, "", lambda count, total, note: read.append(count))
    assert read == [6]
    change(files[2], SliceThickness=7)
    os.utime(files[2], (1, 1))
    files[5].unlink()
    read.clear()
    second, _ = list_images(tmp_path / "scans", hidden_id, "", lambda count, total, note: read.append(count))
    assert read == [5]  # four remembered and one read
    assert [image.thickness for image in second].count(7) == 1
    assert len(first) - len(second) == 1
    memory = next((tmp_path / "cache").rglob("*.json"))
    assert memory.stat().st_mode & 0o777 == 0o600
    assert b"Doe" not in memory.read_bytes()
    memory.write_text("[[1,")
    assert list_images(tmp_path / "scans", hidden_id, "")[0] == second


def test_each_new_file_is_opened_once(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.dcm").touch()
    opened: list[str] = []
    watchers = [opened.append]  # a hook cannot be taken out again
    sys.addaudithook(lambda event, details: [watch(str(details[0])) for watch in watchers if event == "open"])
    find(tmp_path)
    watchers.clear()
    names = sorted(path for path in opened if path.startswith(str(tmp_path)) and Path(path).suffix in (".dcm", ".txt"))
    assert names == sorted(map(str, [*files, tmp_path / "notes.txt", tmp_path / "empty.dcm"]))


@pytest.mark.slow
def test_many_files_are_read_in_processes_and_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty series of 110 slices: above the number where processes are started."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = write_series(tmp_path / "scans" / "0", chest(110, 16), SPACING)
    for copy in range(1, 20):
        shutil.copytree(tmp_path / "scans" / "0", tmp_path / "scans" / str(copy))
    progress: list[tuple[int, int]] = []

    def record(count: int, total: int, note: str) -> None:
        progress.append((count, total))

    images, _ = list_images(tmp_path / "scans", hidden_id, "", record)
    assert len(images) == 20 * len(files)
    assert progress[-1] == (2200, 2200)
    assert len(progress) == 11
    assert list_images(tmp_path / "scans", hidden_id, "", record)[0] == images
    assert len(progress) == 11  # no file is read again


def kill_reader(patient: str, path: Path) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return patient


def test_a_killed_reader_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.images._MIN_FILES_FOR_PROCESSES", 2)
    write_series(tmp_path, chest(4, 16), SPACING)
    with pytest.raises(UserError, match="a process that read headers was killed"):
        list_images(tmp_path, kill_reader, "")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read anything: become nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_opened_fails_its_scan_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "scans" / "a", chest(4), SPACING)
    write_series(tmp_path / "scans" / "b", chest(4), SPACING)
    write_series(tmp_path / "scans" / "c", chest(4), SPACING)[0].write_bytes(bytes(128) + b"DICM" + b"broken" * 9)
    (tmp_path / "alone").mkdir()
    files[-1].chmod(0)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.owner() == "root" and folder != Path("/") and "pytest" in str(folder):
            folder.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cache))
    with unprivileged():
        discovery = find(tmp_path / "scans")
    faults = {series.location.name: series.fault for series in discovery.series}
    assert isinstance(faults["a"], MachineError)
    name = file_pseudonym(str(files[-1].relative_to(tmp_path / "scans")))
    assert str(faults["a"]) == f"file {name}, which may be a slice of it, cannot be opened (Permission denied)"
    assert [(e.scan, e.images, e.reason) for e in discovery.exclusions if e.scan == name] == [
        (name, 1, "file cannot be opened (Permission denied)")
    ]
    assert faults["b"] is None
    assert isinstance(faults["c"], ScanError)
    files[-1].chmod(0o644)
    second = find(tmp_path / "scans")  # what could not be opened is not remembered so
    assert {series.location.name: series.fault for series in second.series}["a"] is None
