"""Writers of pairs and files that are killed, or that the disk stops: what was there stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.files import is_locked, locked, publishing, replacing, write_atomic
from data_prep.store import Pair
from tests.pairs import write_pair
from tests.scans import chest
from tests.toy_runs import any_file, wait_for

STREAM = """
import sys, numpy as np
from pathlib import Path
from data_prep.group_writer import writing_group
from data_prep.partners import FULL_DOSE, LOW_DOSE
hu = np.random.default_rng(1).integers(-1000, 1000, (32, 512, 512)).astype("int16")
print("writing", flush=True)
with writing_group(Path(sys.argv[1]), (FULL_DOSE, LOW_DOSE), (32 * 100, 512, 512), (1, 1, 1)) as writer:
    for _ in range(100):
        writer.write(hu, hu)
    writer.close({})
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_pair_and_then_nothing_of_its_own(
    make_pair: Callable[..., Path],
) -> None:
    data = make_pair()
    path = data / "toy" / "a.zarr"
    with subprocess.Popen([sys.executable, "-c", STREAM, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        wait_for(lambda: any_file(path.parent, ".a.zarr.*.tmp/*/c/*/*/*"), 60)
        writer.send_signal(signal.SIGKILL)
    Pair(path).check()
    assert list(path.parent.glob(".a.zarr.*.tmp"))
    full = chest(4)
    write_pair(path, {"full_dose": full, "low_dose": full}, (1, 1, 1), {})
    assert os.listdir(path.parent) == ["a.zarr"]
    assert len(Pair(path).read("low_dose")) == 4


def _stream(path: Path, before: str = "") -> str:
    """The last line that a writer in a process of its own says."""
    completed = subprocess.run(
        [sys.executable, "-c", before + STREAM, str(path)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 1
    return completed.stderr.splitlines()[-1]


def test_a_shard_too_large_for_the_file_system_leaves_the_old_pair_alone(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    assert _stream(path, limit).startswith("OSError: [Errno 27] File too large")
    assert os.listdir(path.parent) == ["a.zarr"]
    Pair(path).check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_old_pair_alone(small_disk: Path) -> None:
    path = small_disk / "a.zarr"
    write_pair(path, {"full_dose": chest(40), "low_dose": chest(40)}, (1, 1, 1), {})
    assert _stream(path).startswith("OSError: [Errno 28] No space left on device")
    assert os.listdir(small_disk) == ["a.zarr"]
    Pair(path).check()


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise OSError("disk full")


def _fill_half(folder: Path) -> None:
    (folder / "half").touch()
    raise OSError("disk full")


def test_failed_writes_leave_what_was_there(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    write_atomic(path, "old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        _write_half(temporary)
    with pytest.raises(OSError, match="full"), publishing(folder) as temporary:
        _fill_half(temporary)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(folder) == ["old"]


def test_a_lock_is_free_after_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys, time; from pathlib import Path; from data_prep.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)


def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    """Not by that of the file or folder that was to replace it."""
    path = tmp_path / ("x" * 230)  # that name has 38 characters more, which no file system takes
    with pytest.raises(OSError, match="File name too long") as caught:
        write_atomic(path, "")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as missing, publishing(tmp_path / "folder") as temporary:
        (temporary / "missing" / "file").write_text("")
    assert missing.value.filename == str(tmp_path / "folder")
    assert os.listdir(tmp_path) == []
