"""A low-dose/full-dose pair as one Zarr v3 group (OME-Zarr 0.5 attributes), whole or absent.

Arrays ``full_dose`` and ``low_dose``: int16 HU, (slices, 512, 512), one slice an inner chunk, 32
slices a shard, each shard written by one writer. ``attributes["quarterdose"]`` holds provenance and
the SHA-256 of each array's bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from data_prep.errors import UserError
from data_prep.files import publishing, remove_leftovers
from data_prep.volume import AIR_HU

ARRAYS = ("full_dose", "low_dose")
SHARD_SLICES = 32


def write_pair(
    path: Path,
    arrays: Mapping[str, NDArray[np.int16]],
    spacing: tuple[float, float, float],
    provenance: Mapping[str, Any],
) -> dict[str, str]:
    """Write ``full_dose`` and ``low_dose`` (``spacing`` mm along z, y, x); return their digests.

    The pair shows under ``path`` only when all of it is on disk. The caller must be the only writer.
    """
    assert set(arrays) == set(ARRAYS)
    remove_leftovers(path.parent, path.name)
    digests = {name: digest_array(array) for name, array in arrays.items()}
    with publishing(path) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        for name, array in arrays.items():
            _write_array(group, name, array)
        group.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscale(name, spacing) for name in arrays]}
        group.attrs["quarterdose"] = {**provenance, "spacing_mm": list(spacing), "sha256": digests}
    return digests


def _write_array(group: zarr.Group, name: str, array: NDArray[np.int16]) -> None:
    slices, *plane = array.shape
    target = group.create_array(
        name,
        shape=array.shape,
        dtype="int16",
        chunks=(1, *plane),
        shards=(min(SHARD_SLICES, slices), *plane),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2), Crc32cCodec()],
        fill_value=AIR_HU,
        dimension_names=("z", "y", "x"),
    )
    target[:] = array


def _multiscale(name: str, spacing: tuple[float, float, float]) -> dict[str, Any]:
    scale = {"type": "scale", "scale": list(spacing)}
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {"name": name, "axes": axes, "datasets": [{"path": name, "coordinateTransformations": [scale]}]}


def digest_array(array: NDArray[np.int16]) -> str:
    """SHA-256 of the little-endian bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<i2").data).hexdigest()


@dataclass(frozen=True)
class Pair:
    """An open pair; slices are decoded when they are read."""

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
        """What :func:`write_pair` recorded."""
        recorded = self._group.attrs["quarterdose"]
        assert isinstance(recorded, dict)
        return recorded

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """HU of slices ``start`` to ``stop`` of one array."""
        return np.asarray(self._arrays[name][start:stop], dtype=np.int16)

    def check(self) -> None:
        """Read all and compare with the recorded digests.

        Raises:
            UserError: an array does not hold the bytes that were written.
        """
        for name, recorded in self.provenance["sha256"].items():
            if self._digest(name) != recorded:
                raise UserError(f"{self.path}/{name} does not hold what was written: prepare the scan again")

    def _digest(self, name: str) -> str:
        try:
            return digest_array(self.read(name))
        except (ValueError, RuntimeError) as error:  # a checksum or a codec that does not agree
            return f"unreadable: {error}"
