"""A low-dose/full-dose pair: the Zarr group that preparation writes, read slice by slice for training."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from data_prep.errors import UserError
from data_prep.group_writer import AFFINE, SHARD_SLICES, array_bytes
from data_prep.partners import FULL_DOSE, Partner
from data_prep.seal import SEAL, BrokenSeal, unsealed

blosc.use_threads = False  # two threads read a volume, and blosc's own threads would compete with them
_MAX_OVERHEAD_BYTES = 64  # of a slice that cannot be compressed: blosc's header and the checksum
_INDEX_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4  # of Zarr's codecs sharding_indexed and crc32c
_REMEDY = "prepare the scan again (`quarterdose verify DATA --mend`)"


_Row = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
_Length = Annotated[FiniteFloat, Field(gt=0)]


class _PartnerRecord(BaseModel):
    """What a pair records of each of several partners at least."""

    dose: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    realisation: Annotated[int, Field(ge=1)]
    array: Annotated[str, Field(pattern=r"^low_dose_[0-9.e-]{1,32}_[0-9]{1,9}$")]


class _Record(BaseModel):
    """What a pair's attribute holds at least."""

    model_config = ConfigDict(extra="allow")
    spacing_mm: tuple[_Length, _Length, _Length]
    sha256: dict[str, str]
    affine_ras_mm: Annotated[list[_Row], Field(min_length=4, max_length=4)] | None = None
    partners: Annotated[list[_PartnerRecord], Field(min_length=2)] | None = None


@dataclass(frozen=True)
class Pair:
    """An open pair; slices are decoded when they are read.

    Slices are read from the shards directly: Zarr's own reader takes three times as long, and ``zarrs`` hangs in
    forked processes (docs/decisions/store.md). No thread and no file stays open after a read, so that a process may
    fork.
    """

    path: Path

    @cached_property
    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.path, mode="r")
        except Exception as error:  # broken metadata raise errors of many kinds
            raise UserError(f"{self.path} is no Zarr pair: its zarr.json is missing or damaged") from error

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        arrays = {name: self._array(name) for name in (FULL_DOSE, *(partner.array for partner in self.partners))}
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) > 1 or any(not _is_stored_as_written(array) for array in arrays.values()):
            raise UserError(
                f"{self.path} is no pair that preparation wrote: its arrays must be int16 of equal shape, (slices, "
                f"rows, columns), each slice a chunk, in shards of {SHARD_SLICES}"
            )
        return arrays

    def _array(self, name: str) -> zarr.Array[Any]:
        group = self._group
        try:
            array = group.get(name)
        except Exception as error:  # as above
            raise UserError(f"{self.path}/{name} has a damaged zarr.json: {_REMEDY}") from error
        if not isinstance(array, zarr.Array):
            raise UserError(f"{self.path} lacks the array {name}: {_REMEDY}")
        return array

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Attributes that :meth:`data_prep.group_writer.GroupWriter.close` recorded.

        Raises:
            UserError: they are missing, or are not of their kind.
        """
        recorded = self._group.attrs.get("quarterdose")
        try:
            _Record.model_validate(recorded)
        except ValidationError as error:
            key = ".".join(("quarterdose", *map(str, error.errors()[0]["loc"])))
            raise UserError(
                f"{self.path} is no pair that preparation wrote: its attribute {key} is missing or not of its kind"
            ) from error
        assert isinstance(recorded, dict)
        return self._unsealed(recorded)

    @cached_property
    def partners(self) -> tuple[Partner, ...]:
        """The low doses of the pair; the dose of a measured one is not known."""
        several = self.provenance.get("partners")
        if several:
            return tuple(Partner(record["dose"], record["realisation"], record["array"]) for record in several)
        low_dose = self.provenance.get("low_dose")
        return (Partner(low_dose.get("dose") if isinstance(low_dose, dict) else None),)

    @property
    def noise_models(self) -> dict[float, Any]:
        """Record of the noise model of each simulated dose; None where none was recorded."""
        several = self.provenance.get("partners")
        if several:
            return {record["dose"]: record.get("noise_model") for record in several}
        (partner,) = self.partners
        return {} if partner.dose is None else {partner.dose: self.provenance.get("noise_model")}

    def _unsealed(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Check the record's own digest, which pairs of earlier versions lack."""
        try:
            return unsealed(recorded) if SEAL in recorded else recorded
        except BrokenSeal as error:
            raise UserError(f"{self.path}/zarr.json does not hold what was written: {_REMEDY}") from error

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """Affine of (x, y, z) indices to RAS+ mm; None where it was not recorded."""
        recorded = self.provenance.get(AFFINE)
        return None if recorded is None else np.array(recorded, np.float64)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of slices, rows and columns, equal for all arrays."""
        slices, rows, columns = self._arrays[FULL_DOSE].shape
        return slices, rows, columns

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """Return HU of slices ``start`` to ``stop`` of one array, (slices, rows, columns).

        Raises:
            UserError: a slice is missing or fails its checksum.
        """
        indices = range(self.shape[0])[start:stop]
        hu = np.empty((len(indices), *self.shape[1:]), np.int16)
        self._read_into(hu, name, indices)
        return hu

    def read_slices(
        self, indices: Sequence[int], out: NDArray[np.int16] | None = None, low: str | None = None
    ) -> NDArray[np.int16]:
        """Return HU of any slices of full and low dose, (2, slices, rows, columns); raises as :meth:`read`.

        ``out``: an array to read into, which takes a quarter less time than a new one. ``low``: array of the low dose;
        by default the first partner's.
        """
        hu = np.empty((2, len(indices), *self.shape[1:]), np.int16) if out is None else out
        with ThreadPoolExecutor(1) as thread:  # only for this read: threads do not survive a fork
            low_dose = thread.submit(self._read_into, hu[1], low or self.partners[0].array, indices)
            self._read_into(hu[0], FULL_DOSE, indices)
            low_dose.result()
        return hu

    def _read_into(self, hu: NDArray[np.int16], name: str, indices: Sequence[int]) -> None:
        shards = self._arrays[name].shards
        assert shards
        targets = iter(hu)
        buffer = np.empty(hu[:1].nbytes + _MAX_OVERHEAD_BYTES, np.uint8)
        try:
            for number, group in groupby(indices, lambda z: z // shards[0]):
                shard = self.path / name / "c" / str(number) / "0" / "0"
                for compressed in _compressed_slices(shard, shards[0], [z % shards[0] for z in group], buffer):
                    blosc.decompress(compressed, next(targets))
        except (FileNotFoundError, ValueError, OverflowError, RuntimeError) as error:
            raise self._damaged(name) from error

    def check(self) -> None:
        """Read all arrays, a shard at a time, and compare them with the recorded digests.

        Raises:
            UserError: an array does not hold the bytes that were written.
            OSError: they cannot be read from the disk.
        """
        digests = self.provenance["sha256"]
        for name in self._arrays:
            digest = hashlib.sha256()
            for start in range(0, self.shape[0], SHARD_SLICES):
                digest.update(array_bytes(self.read(name, start, start + SHARD_SLICES)))
            if digest.hexdigest() != digests.get(name):
                raise self._damaged(name)

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self.path}/{name} does not hold what was written: {_REMEDY}")


def _is_stored_as_written(array: zarr.Array[Any]) -> bool:
    if array.dtype != np.int16 or array.ndim != 3 or 0 in array.shape:
        return False
    slices, *plane = array.shape
    return array.chunks == (1, *plane) and array.shards == (min(SHARD_SLICES, slices), *plane)


def _compressed_slices(
    shard: Path, slices: int, indices: Sequence[int], buffer: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """Yield compressed slices of a shard of ``slices``; its end holds the (offset, length) of each.

    Each slice lies in ``buffer`` until the next is asked for: new memory takes longer than reading the bytes.
    """
    with shard.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - slices * _INDEX_ENTRY_BYTES - _CHECKSUM_BYTES))
        index = _checked(np.frombuffer(file.read(), np.uint8)).view("<u8").reshape(slices, 2)[indices]
        if index[:, 1].max() > len(buffer):
            raise ValueError("longer than any slice")
        for offset, length in index.tolist():
            file.seek(offset)
            yield _checked(buffer[: file.readinto(buffer[:length].data)])


def _checked(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes before the CRC-32C at the end; raises ValueError if it does not match them."""
    content = stored[:-_CHECKSUM_BYTES]
    if google_crc32c.value(content) != int.from_bytes(stored[-_CHECKSUM_BYTES:].tobytes(), "little"):
        raise ValueError("checksum")
    return content
