"""A low-dose/full-dose pair as one Zarr v3 group (OME-Zarr 0.5 attributes), whole or absent.

Arrays ``full_dose`` and ``low_dose``: int16 HU, (slices, 512, 512), one slice an inner chunk, 32
slices a shard, each shard written by one writer. ``attributes["quarterdose"]`` holds provenance and
the SHA-256 of each array's bytes.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from data_prep.errors import UserError
from data_prep.files import publishing, remove_leftovers
from data_prep.volume import AIR_HU

ARRAYS = ("full_dose", "low_dose")
SHARD_SLICES = 32
# chosen for the time of reading: zstd takes twice as long, blosc's own block size, a whole slice, a sixth longer
_BLOSC = BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle", typesize=2, blocksize=32768)
blosc.use_threads = False  # a volume is read by two threads, in whose way blosc's own would be
_MOST_MORE_BYTES = 64  # of a slice that cannot be compressed: blosc's header and the checksum
_INDEX_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4  # of Zarr's codecs sharding_indexed and crc32c


@contextmanager
def writing_group(
    path: Path, names: Sequence[str], shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> Iterator["GroupWriter"]:
    """Give a writer of arrays of (slices, rows, columns), ``spacing`` mm along z, y, x; a pair's are ``ARRAYS``.

    The group shows under ``path`` once the block has ended and :meth:`GroupWriter.close` was called;
    until then an old one stays. The caller must be the only writer.
    """
    remove_leftovers(path.parent, path.name)
    with publishing(path) as folder:
        writer = GroupWriter(folder, names, shape, spacing)
        yield writer
        assert writer.closed


class GroupWriter:
    """Writes arrays slice by slice, in the memory of one shard an array."""

    def __init__(
        self, folder: Path, names: Sequence[str], shape: tuple[int, int, int], spacing: tuple[float, float, float]
    ) -> None:
        self.closed = False
        self._spacing = spacing
        self._group = zarr.open_group(folder, mode="w", zarr_format=3)
        self._writers = {name: _ArrayWriter(self._group, name, shape) for name in names}

    def write(self, *arrays: NDArray[np.int16]) -> None:
        """Append the next slices of each array, from feet to head, HU; ``SHARD_SLICES`` at a time is cheapest."""
        assert len({hu.shape for hu in arrays}) == 1
        for writer, hu in zip(self._writers.values(), arrays, strict=True):
            writer.write(hu)

    def close(self, provenance: Mapping[str, Any]) -> dict[str, str]:
        """After the last slice: record ``provenance``; return the digest of each array."""
        assert all(writer.written == writer.array.shape[0] for writer in self._writers.values())
        digests = {name: writer.digest.hexdigest() for name, writer in self._writers.items()}
        multiscales = [_multiscale(name, self._spacing) for name in self._writers]
        self._group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
        self._group.attrs["quarterdose"] = {**provenance, "spacing_mm": list(self._spacing), "sha256": digests}
        self.closed = True
        return digests


class _ArrayWriter:
    """Collects slices until a shard is full, so that each is written once."""

    def __init__(self, group: zarr.Group, name: str, shape: tuple[int, int, int]) -> None:
        slices, *plane = shape
        self.array = group.create_array(
            name,
            shape=shape,
            dtype="int16",
            chunks=(1, *plane),
            shards=(min(SHARD_SLICES, slices), *plane),
            compressors=[_BLOSC, Crc32cCodec()],
            fill_value=AIR_HU,
            dimension_names=("z", "y", "x"),
            config={"write_empty_chunks": True},  # a slice that is missing is lost, never air
        )
        self.digest = hashlib.sha256()
        self.written = 0
        self._shard = np.empty((min(SHARD_SLICES, slices), *plane), np.int16)

    def write(self, hu: NDArray[np.int16]) -> None:
        self.digest.update(_bytes(hu))
        while len(hu):
            held = self.written % len(self._shard)
            part, hu = np.split(hu, [len(self._shard) - held])
            self._shard[held : held + len(part)] = part
            self.written += len(part)
            if self.written % len(self._shard) == 0 or self.written == self.array.shape[0]:
                self._flush(held + len(part))

    def _flush(self, held: int) -> None:
        self.array[self.written - held : self.written] = self._shard[:held]


def _multiscale(name: str, spacing: tuple[float, float, float]) -> dict[str, Any]:
    scale = {"type": "scale", "scale": list(spacing)}
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {"name": name, "axes": axes, "datasets": [{"path": name, "coordinateTransformations": [scale]}]}


def _bytes(array: NDArray[np.int16]) -> memoryview:
    return np.ascontiguousarray(array, dtype="<i2").data


@dataclass(frozen=True)
class Pair:
    """An open pair; slices are decoded when they are read.

    Slices are taken from the shards without Zarr's own reader, which needs three times as long, or with
    ``zarrs`` hangs in forked processes (docs/decisions/store.md). No thread and no file stays open after a
    read, so a process may fork after it.
    """

    path: Path

    @cached_property
    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.path, mode="r")
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{self.path} is no Zarr pair") from error

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        found = {name: self._group.get(name) for name in ARRAYS}
        missing = [name for name, array in found.items() if not isinstance(array, zarr.Array)]
        if missing:
            raise UserError(f"{self.path} lacks the array {' and '.join(missing)}: prepare the scan again")
        return {name: array for name, array in found.items() if isinstance(array, zarr.Array)}

    @property
    def provenance(self) -> dict[str, Any]:
        """What :meth:`GroupWriter.close` recorded."""
        recorded = self._group.attrs["quarterdose"]
        assert isinstance(recorded, dict)
        return recorded

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of either array."""
        slices, rows, columns = self._arrays[ARRAYS[0]].shape
        return slices, rows, columns

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """HU of slices ``start`` to ``stop`` of one array.

        Raises:
            UserError: a slice is not there or fails its checksum.
        """
        indices = range(self.shape[0])[start:stop]
        hu = np.empty((len(indices), *self.shape[1:]), np.int16)
        self._read_into(hu, name, indices)
        return hu

    def read_slices(self, indices: Sequence[int], out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """HU of any slices, full dose and low dose, (2, slices, rows, columns); raises as :meth:`read`.

        ``out``: memory to read into, which saves a quarter of the time that fresh memory takes.
        """
        hu = np.empty((len(ARRAYS), len(indices), *self.shape[1:]), np.int16) if out is None else out
        with ThreadPoolExecutor(1) as helper:  # for this read alone: threads do not live on in a forked process
            low_dose = helper.submit(self._read_into, hu[1], "low_dose", indices)
            self._read_into(hu[0], "full_dose", indices)
            low_dose.result()
        return hu

    def _read_into(self, hu: NDArray[np.int16], name: str, indices: Sequence[int]) -> None:
        shards = self._arrays[name].shards
        assert shards
        targets = iter(hu)
        memory = np.empty(hu[:1].nbytes + _MOST_MORE_BYTES, np.uint8)
        try:
            for number, group in groupby(indices, lambda z: z // shards[0]):
                shard = self.path / name / "c" / str(number) / "0" / "0"
                for compressed in _compressed_slices(shard, shards[0], [z % shards[0] for z in group], memory):
                    blosc.decompress(compressed, next(targets))
        except (FileNotFoundError, ValueError, OverflowError, RuntimeError) as error:
            raise self._damaged(name) from error

    def check(self) -> None:
        """Read all, a shard at a time, and compare with the recorded digests.

        Raises:
            UserError: an array does not hold the bytes that were written.
            OSError: the disk does not let them be read.
        """
        for name, recorded in self.provenance["sha256"].items():
            digest = hashlib.sha256()
            for start in range(0, self.shape[0], SHARD_SLICES):
                digest.update(_bytes(self.read(name, start, start + SHARD_SLICES)))
            if digest.hexdigest() != recorded:
                raise self._damaged(name)

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self.path}/{name} does not hold what was written: prepare the scan again")


def _compressed_slices(
    shard: Path, slices: int, places: Sequence[int], memory: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """The compressed slices at ``places`` of a shard of ``slices``, whose (offset, length) stand at its end.

    Each lies in ``memory`` until the next: fresh memory for each takes longer than its bytes.
    """
    with shard.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - slices * _INDEX_ENTRY_BYTES - _CHECKSUM_BYTES))
        index = _checked(np.frombuffer(file.read(), np.uint8)).view("<u8").reshape(slices, 2)[places]
        if index[:, 1].max() > len(memory):
            raise ValueError("longer than any slice")
        for offset, length in index.tolist():
            file.seek(offset)
            yield _checked(memory[: file.readinto(memory[:length].data)])


def _checked(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What stands before the CRC-32C that ends it."""
    content = stored[:-_CHECKSUM_BYTES]
    if google_crc32c.value(content) != int.from_bytes(stored[-_CHECKSUM_BYTES:].tobytes(), "little"):
        raise ValueError("checksum")
    return content
