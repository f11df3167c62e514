"""Arrays of slices written as one Zarr v3 group (OME-Zarr 0.5 attributes), whole or absent.

Each array: int16 HU, (slices, rows, columns), one slice an inner chunk, 32 slices a shard, each shard written by one
writer. ``attributes["quarterdose"]`` holds provenance and the SHA-256 of each array's bytes.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from data_prep.files import Declare, declare_nothing, publishing, remove_leftovers
from data_prep.seal import sealed
from data_prep.volume import AIR_HU

SHARD_SLICES = 32
AFFINE = "affine_ras_mm"
"""Key of the affine in a group's provenance: (x, y, z) indices to RAS+ mm, four rows."""
# chosen for the time of reading: zstd takes twice as long, blosc's own block size, a whole slice, a sixth longer
_BLOSC = BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle", typesize=2, blocksize=32768)


@contextmanager
def writing_group(
    path: Path, names: Sequence[str], shape: tuple[int, int, int], spacing: tuple[float, float, float],
    affine: NDArray[np.float64] | None = None, declare: Declare = declare_nothing,
) -> Iterator["GroupWriter"]:  # fmt: skip
    """Give a writer of arrays of (slices, rows, columns), ``spacing`` mm along (z, y, x).

    ``affine``: (x, y, z) indices to RAS+ mm, if the position in the patient is known. The group appears under ``path``
    when the block ends after :meth:`GroupWriter.close`; until then an older group stays. ``declare`` is called with
    the complete group before. The caller must be the only writer.
    """
    remove_leftovers(path.parent, re.escape(path.name))
    with publishing(path, declare) as folder:
        writer = GroupWriter(folder, names, shape, spacing, affine)
        yield writer
        assert writer.closed


class GroupWriter:
    """Writes arrays slice by slice; it holds one shard of each array in memory."""

    def __init__(
        self, folder: Path, names: Sequence[str], shape: tuple[int, int, int], spacing: tuple[float, float, float],
        affine: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        self.closed = False
        self._spacing, self._affine = spacing, affine
        self._group = zarr.open_group(folder, mode="w", zarr_format=3)
        self._writers = {name: _ArrayWriter(self._group, name, shape) for name in names}

    def write(self, *arrays: NDArray[np.int16]) -> None:
        """Append the next slices of each array, from feet to head, HU; ``SHARD_SLICES`` at a time is cheapest."""
        assert len({hu.shape for hu in arrays}) == 1
        for writer, hu in zip(self._writers.values(), arrays, strict=True):
            writer.write(hu)

    def close(self, provenance: Mapping[str, Any]) -> dict[str, str]:
        """Record ``provenance`` after the last slice; return the digest of each array by name."""
        assert all(writer.written == writer.array.shape[0] for writer in self._writers.values())
        digests = {name: writer.digest.hexdigest() for name, writer in self._writers.items()}
        multiscales = [_multiscale(name, self._spacing, self._affine) for name in self._writers]
        self._group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
        position = {} if self._affine is None else {AFFINE: self._affine.tolist()}
        self._group.attrs["quarterdose"] = sealed(
            {**provenance, "spacing_mm": list(self._spacing), **position, "sha256": digests}
        )
        self.closed = True
        return digests


class _ArrayWriter:
    """Collects slices until a shard is full, so that each shard is written once."""

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
            config={"write_empty_chunks": True},  # a missing slice must be an error, not air
        )
        self.digest = hashlib.sha256()
        self.written = 0
        self._shard = np.empty((min(SHARD_SLICES, slices), *plane), np.int16)

    def write(self, hu: NDArray[np.int16]) -> None:
        self.digest.update(array_bytes(hu))
        while len(hu):
            filled = self.written % len(self._shard)
            part, hu = np.split(hu, [len(self._shard) - filled])
            self._shard[filled : filled + len(part)] = part
            self.written += len(part)
            if self.written % len(self._shard) == 0 or self.written == self.array.shape[0]:
                self._flush(filled + len(part))

    def _flush(self, filled: int) -> None:
        self.array[self.written - filled : self.written] = self._shard[:filled]


def _multiscale(name: str, spacing: tuple[float, float, float], affine: NDArray[np.float64] | None) -> dict[str, Any]:
    """Describe an array for OME-Zarr; the translation is the first voxel's place, in mm along DICOM's axes (LPS)."""
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": list(spacing)}]
    if affine is not None:
        x, y, z = (affine[:3, 3] * [-1, -1, 1]).tolist()
        transformations.append({"type": "translation", "translation": [z, y, x]})
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {"name": name, "axes": axes, "datasets": [{"path": name, "coordinateTransformations": transformations}]}


def array_bytes(array: NDArray[np.int16]) -> memoryview:
    """Return the little-endian bytes in C order, of which digests are taken."""
    return np.ascontiguousarray(array, dtype="<i2").data
