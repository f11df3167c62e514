import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from data_prep.errors import UserError
from data_prep.files import is_locked, locked, publishing, replacing, write_atomic
from data_prep.store import Pair, digest_array, write_pair
from tests.conftest import chest


def test_a_pair_comes_back_with_its_attributes(make_pair: Callable[..., Path]) -> None:
    path = make_pair(slices=70) / "toy" / "a.zarr"
    pair = Pair(path)
    np.testing.assert_array_equal(pair.read("full_dose"), chest(70))
    np.testing.assert_array_equal(pair.read("full_dose", 31, 34), chest(70)[31:34])
    assert pair.provenance["sha256"]["full_dose"] == digest_array(chest(70))
    pair.check()
    group = zarr.open_group(path, mode="r")
    array = group["low_dose"]
    assert isinstance(array, zarr.Array)
    assert (array.chunks, array.shards, str(array.dtype)) == ((1, 64, 64), (32, 64, 64), "int16")
    assert group.metadata.zarr_format == 3
    ome: Any = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["z", "y", "x"]
    assert ome["multiscales"][1]["datasets"][0]["coordinateTransformations"][0]["scale"] == [2.5, 0.7, 0.7]


def test_a_flipped_byte_is_found(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    shard = path / "low_dose" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="does not hold what was written"):
        Pair(path).check()


def test_a_missing_shard_is_found(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    (path / "full_dose" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(UserError, match="does not hold what was written"):
        Pair(path).check()


def test_no_pair_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Zarr pair"):
        Pair(tmp_path / "absent.zarr").read("full_dose")


def test_a_writer_killed_in_the_middle_leaves_the_old_pair_and_then_nothing_of_its_own(
    make_pair: Callable[..., Path],
) -> None:
    data = make_pair()
    path = data / "toy" / "a.zarr"
    script = (
        "import sys, numpy as np; from pathlib import Path; from data_prep.store import write_pair\n"
        "hu = np.random.default_rng(1).integers(-1000, 1000, (400, 512, 512)).astype('int16')\n"
        "print('writing', flush=True)\n"
        "write_pair(Path(sys.argv[1]), {'full_dose': hu, 'low_dose': hu}, (1, 1, 1), {})"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        deadline = time.monotonic() + 60
        while not list(path.parent.glob(".a.zarr.*.tmp/*/c/*/*/*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        writer.send_signal(signal.SIGKILL)
    Pair(path).check()
    assert list(path.parent.glob(".a.zarr.*.tmp"))
    full = chest(4)
    write_pair(path, {"full_dose": full, "low_dose": full}, (1, 1, 1), {})
    assert os.listdir(path.parent) == ["a.zarr"]
    assert len(Pair(path).read("low_dose")) == 4


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
