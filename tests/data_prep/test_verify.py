import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from data_prep.errors import UserError
from data_prep.store import Pair
from data_prep.verify import verify


@pytest.fixture
def data(make_pair: Callable[..., Path]) -> Path:
    """Two pairs and their manifest, with a scan that was turned away."""
    folder = make_pair("a")
    make_pair("b", seed=1)
    rows = [{"dataset": "toy", "scan": "c", "state": "turned away", "reason": "tilted"}]
    for scan in "ab":
        digests = Pair(folder / "toy" / f"{scan}.zarr").provenance["sha256"]
        rows.append({"dataset": "toy", "scan": scan, "state": "kept", **{f"sha256_{k}": v for k, v in digests.items()}})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def fault_messages(data: Path) -> dict[str, str]:
    count, faults = verify(data)
    assert count == 2
    return {fault.scan: fault.message for fault in faults}


def test_sound_data_has_no_fault(data: Path) -> None:
    counts: list[int] = []
    assert verify(data, lambda checked, total, note: counts.append(checked)) == (2, [])
    assert counts == [1, 2]


@pytest.mark.parametrize("chunk", ["full_dose/c/1/0/0", "low_dose/c/0/0/0"])
def test_a_flipped_byte_and_a_missing_shard_are_found(data: Path, chunk: str) -> None:
    shard = data / "toy" / "a.zarr" / chunk
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    assert "does not hold what was written" in fault_messages(data)["a"]
    shard.unlink()
    assert list(fault_messages(data)) == ["a"]


def test_a_shard_that_the_disk_does_not_give_is_a_fault_of_its_scan_alone(data: Path) -> None:
    shard = data / "toy" / "a.zarr" / "low_dose" / "c" / "0" / "0" / "0"
    shard.unlink()
    shard.mkdir()
    assert fault_messages(data) == {"a": f"[Errno 21] Is a directory: '{shard}'"}


def test_a_manifest_that_lies_is_found(data: Path) -> None:
    path = data / "manifest.csv"
    path.write_text(path.read_text().replace(Pair(data / "toy" / "b.zarr").provenance["sha256"]["low_dose"], "0" * 64))
    assert "another digest for low_dose" in fault_messages(data)["b"]


def test_missing_and_unlisted_pairs_are_found(data: Path) -> None:
    (data / "toy" / "a.zarr").rename(data / "toy" / "d.zarr")
    messages = fault_messages(data)
    assert messages["a"].endswith("a.zarr is missing")
    assert messages["d"].endswith("is not in the manifest")
    shutil.rmtree(data / "toy" / "d.zarr" / "low_dose")
    (data / "toy" / "d.zarr").rename(data / "toy" / "a.zarr")
    assert "a" in fault_messages(data)


def test_ids_that_look_like_missing_values_are_verified(data: Path) -> None:
    (data / "toy").rename(data / "NA")
    (data / "NA" / "a.zarr").rename(data / "NA" / "NULL.zarr")
    path = data / "manifest.csv"
    path.write_text(path.read_text().replace("toy,", "NA,").replace("NA,a,", "NA,NULL,"))
    assert verify(data) == (2, [])
    (data / "NA" / "NULL.zarr").rename(data / "NA" / "None.zarr")
    assert {fault.scan: fault.message.partition("NA/")[2] for fault in verify(data)[1]} == {
        "NULL": "NULL.zarr is missing", "None": "None.zarr is not in the manifest",
    }  # fmt: skip


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no manifest\.csv: it is no data folder of a run, such as runs/NAME/data"
    ):
        verify(tmp_path)


def test_a_run_folder_is_refused_with_the_folder_of_its_data(data: Path) -> None:
    run = data.rename(data.with_name("data")).parent
    with pytest.raises(UserError, match=rf"{run} holds no manifest\.csv: .* of a run, which is {run}/data$"):
        verify(run)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").touch()
    for path in (tmp_path / "demo.yaml", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"{path} does not exist or is no folder: name the data folder of a run"):
            verify(path)
