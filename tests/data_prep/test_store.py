import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05.image import Image

from data_prep.errors import UserError
from data_prep.group_writer import SHARD_SLICES, GroupWriter, writing_group
from data_prep.partners import FULL_DOSE, partners_of
from data_prep.store import Pair
from data_prep.volume import AIR_HU
from tests.pairs import ARRAYS, digest_array, write_pair
from tests.scans import Hu, chest


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


@pytest.fixture
def streams() -> tuple[Hu, Hu]:
    """Full and low dose of 70 noisy slices, 64 x 64."""
    full, low = np.random.default_rng(0).integers(-1024, 3072, (2, 70, 64, 64)).astype(np.int16)
    return full, low


def test_slices_written_in_pieces_make_the_pair_that_all_at_once_make(tmp_path: Path, streams: tuple[Hu, Hu]) -> None:
    reference, streamed = tmp_path / "whole.zarr", tmp_path / "streamed.zarr"
    digests = write_pair(reference, dict(zip(ARRAYS, streams, strict=True)), (1, 1, 1), {})
    with writing_group(streamed, ARRAYS, (70, 64, 64), (1, 1, 1)) as writer:
        shards = []
        for start, stop in [(0, 1), (1, 31), (31, 33), (33, 33), (33, 70)]:
            writer.write(*(array[start:stop] for array in streams))
            shards.append(len(list(tmp_path.glob(".streamed*/full_dose/c/*/*/*"))))
        assert writer.close({}) == digests == {n: digest_array(a) for n, a in zip(ARRAYS, streams, strict=True)}
    assert shards == [0, 0, 1, 1, 3]
    files = sorted(path.relative_to(reference) for path in reference.rglob("*") if path.is_file())
    assert len(files) == 2 * 3 + 3
    assert all((reference / file).read_bytes() == (streamed / file).read_bytes() for file in files)
    Pair(streamed).check()


def _write_and_close(writer: GroupWriter, streams: tuple[Hu, Hu]) -> None:
    writer.write(*streams)
    writer.close({})


@pytest.mark.parametrize("slices", [69, 71])
def test_a_pair_with_too_few_or_too_many_slices_is_not_published(
    tmp_path: Path, streams: tuple[Hu, Hu], slices: int
) -> None:
    with (
        pytest.raises(AssertionError),
        writing_group(tmp_path / "a", ARRAYS, (slices, 64, 64), (1, 1, 1)) as writer,
    ):
        _write_and_close(writer, streams)
    assert os.listdir(tmp_path) == []


def test_a_pair_that_was_not_closed_is_not_published(tmp_path: Path, streams: tuple[Hu, Hu]) -> None:
    with pytest.raises(AssertionError), writing_group(tmp_path / "a", ARRAYS, (70, 64, 64), (1, 1, 1)) as writer:
        writer.write(*streams)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_writing_and_checking_need_the_memory_of_some_shards_not_of_the_scan(tmp_path: Path) -> None:
    shard = np.random.default_rng(0).integers(-1024, 3072, (SHARD_SLICES, 128, 128)).astype(np.int16)

    def peak(shards: int) -> int:
        tracemalloc.start()
        with writing_group(tmp_path / "a.zarr", ARRAYS, (shards * SHARD_SLICES, 128, 128), (1, 1, 1)) as writer:
            for _ in range(shards):
                writer.write(shard, shard)
            writer.close({})
        Pair(tmp_path / "a.zarr").check()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(16) < peak(2) + shard.nbytes / 2
    assert peak(16) < 8 * shard.nbytes


def test_any_slices_are_read_in_the_order_asked_for(make_pair: Callable[..., Path]) -> None:
    pair = Pair(make_pair(slices=70) / "toy" / "a.zarr")
    indices = [69, 3, 31, 32, 3]
    expected = [pair.read(name)[indices] for name in ("full_dose", "low_dose")]
    np.testing.assert_array_equal(pair.read_slices(indices), expected)
    assert pair.shape == (70, 64, 64)
    assert pair.read_slices([]).shape == (2, 0, 64, 64)
    memory = np.full((2, len(indices), 64, 64), 7, np.int16)
    assert pair.read_slices(indices, memory) is memory
    np.testing.assert_array_equal(memory, expected)


PIPELINES = ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_other_zarr_readers_read_our_pairs_and_we_read_theirs(make_pair: Callable[..., Path], pipeline: str) -> None:
    path = make_pair(slices=70) / "toy" / "a.zarr"
    full = Pair(path).read("full_dose")
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        array = zarr.open_group(path, mode="r+")["full_dose"]
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(array[:], full)
        array[:] = full[::-1]
    np.testing.assert_array_equal(Pair(path).read("full_dose"), full[::-1])


def test_air_is_stored_and_never_stands_for_what_is_missing(tmp_path: Path) -> None:
    path, air = tmp_path / "a.zarr", np.full((40, 64, 64), AIR_HU, np.int16)
    write_pair(path, {"full_dose": air, "low_dose": air}, (1, 1, 1), {})
    np.testing.assert_array_equal(Pair(path).read("low_dose"), air)
    (path / "low_dose" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(UserError, match="low_dose does not hold what was written"):
        Pair(path).read_slices([5])


def _flip(byte: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:byte] + bytes([content[byte] ^ 1]) + content[byte:][1:]


@pytest.mark.parametrize(
    "damage",
    [
        _flip(0),
        _flip(5000),
        _flip(-1),
        _flip(-300),
        lambda content: content[:-9],
        lambda content: content[:9],
        lambda _: b"",
    ],
    ids=["first slice", "a slice", "index checksum", "index", "cut", "cut short", "cut to nothing"],
)
def test_a_damaged_shard_is_found_by_reading_and_by_checking(
    make_pair: Callable[..., Path], damage: Callable[[bytes], bytes]
) -> None:
    path = make_pair() / "toy" / "a.zarr"
    shard = path / "low_dose" / "c" / "0" / "0" / "0"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(UserError, match=r"a\.zarr/low_dose does not hold what was written"):
        Pair(path).check()
    with pytest.raises(UserError, match=r"a\.zarr/low_dose does not hold what was written"):
        Pair(path).read("low_dose")
    Pair(path).read("full_dose")


def test_other_values_with_sound_checksums_are_found(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    group: Any = zarr.open_group(path, mode="r+")
    group["low_dose"][7, 3, 3] += 1
    with pytest.raises(UserError, match="low_dose does not hold what was written"):
        Pair(path).check()


def test_a_missing_shard_is_found(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    (path / "full_dose" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(UserError, match="does not hold what was written"):
        Pair(path).check()


def test_ome_zarr_reads_both_images_with_their_scale(make_pair: Callable[..., Path]) -> None:
    path = make_pair() / "toy" / "a.zarr"
    location = parse_url(path)
    assert location is not None
    (shown,) = Reader(location)()  # of several images in a group ome-zarr's reader shows the first
    assert shown.metadata["name"] == "full_dose"
    assert [axis["unit"] for axis in shown.metadata["axes"]] == ["millimeter"] * 3
    assert shown.metadata["coordinateTransformations"] == [[{"type": "scale", "scale": [2.5, 0.7, 0.7]}]]
    np.testing.assert_array_equal(shown.data[0].compute(), Pair(path).read("full_dose"))
    ome = Image.from_zarr(zarr.open_group(path, mode="r")).ome_attributes
    for name, image in zip(ARRAYS, ome.multiscales, strict=True):
        (dataset,) = image.datasets
        assert (image.name, dataset.path) == (name, name)
        assert dataset.coordinateTransformations[0].model_dump() == {"type": "scale", "scale": [2.5, 0.7, 0.7]}
        np.testing.assert_array_equal(location.load(dataset.path).compute(), Pair(path).read(name))


def test_no_pair_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Zarr pair"):
        Pair(tmp_path / "absent.zarr").read("full_dose")


def several_partners(path: Path) -> dict[str, Hu]:
    """Write a pair of two doses and two realisations; return its arrays."""
    partners = partners_of((0.05, 0.1), 2)
    noise = np.random.default_rng(0)
    arrays = {FULL_DOSE: chest(40)}
    for partner in partners:
        arrays[partner.array] = (arrays[FULL_DOSE] + noise.normal(0, 40, (40, 64, 64))).astype(np.int16)
    with writing_group(path, list(arrays), (40, 64, 64), (2.5, 0.7, 0.7)) as writer:
        writer.write(*arrays.values())
        writer.close({"partners": [asdict(partner) for partner in partners]})
    return arrays


def test_several_partners_are_listed_checked_and_read_each(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    arrays, pair = several_partners(path), Pair(path)
    pair.check()
    assert [(partner.dose, partner.realisation, partner.array) for partner in pair.partners] == [
        (0.05, 1, "low_dose_0.05_1"), (0.05, 2, "low_dose_0.05_2"),
        (0.1, 1, "low_dose_0.1_1"), (0.1, 2, "low_dose_0.1_2"),
    ]  # fmt: skip
    for partner in pair.partners:
        slices = pair.read_slices([3, 30], low=partner.array)
        np.testing.assert_array_equal(slices, [arrays[name][[3, 30]] for name in (FULL_DOSE, partner.array)])
    np.testing.assert_array_equal(pair.read_slices([0])[1], arrays["low_dose_0.05_1"][:1])
    location = parse_url(path)
    assert location is not None
    ome = Image.from_zarr(zarr.open_group(path, mode="r")).ome_attributes
    assert [image.name for image in ome.multiscales] == list(arrays)
    for image in ome.multiscales:
        np.testing.assert_array_equal(location.load(image.datasets[0].path).compute(), arrays[str(image.name)])


def test_a_changed_partner_and_a_missing_one_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    several_partners(path)
    group: Any = zarr.open_group(path, mode="r+")
    group["low_dose_0.1_2"][7, 3, 3] += 1
    with pytest.raises(UserError, match=r"low_dose_0\.1_2 does not hold what was written"):
        Pair(path).check()
    shutil.rmtree(path / "low_dose_0.1_2")
    with pytest.raises(UserError, match=r"lacks the array low_dose_0\.1_2"):
        Pair(path).read(FULL_DOSE)


@pytest.mark.parametrize("array", ["../../b.zarr/low_dose", "full_dose", "low_dose"])
def test_a_partner_can_only_be_an_array_of_the_pair(array: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    partners = [{"dose": dose, "realisation": 1, "array": array} for dose in (0.05, 0.1)]
    write_pair(path, dict.fromkeys(ARRAYS, chest(4)), (1, 1, 1), {"partners": partners})
    with pytest.raises(UserError, match=r"attribute quarterdose\.partners\.0\.array is missing or not of its kind"):
        Pair(path).read(FULL_DOSE)
