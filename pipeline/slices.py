"""Slices of pairs for training: full dose, and a low dose that is stored or simulated anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_prep.partners import FULL_DOSE, Partner
from data_prep.store import Pair

if TYPE_CHECKING:
    from data_prep.lowdose.noise import LowDoseSimulator

CACHED_SLICES = 1024  # 1 GiB of decoded 512 x 512 pairs in each reading process
_OPEN_PAIRS, _SIMULATORS = 256, 64


@dataclass(frozen=True)
class Fresh:
    """A low dose that is simulated where it is read. ``draw``: tells its noise apart from that of further draws."""

    dose: float
    draw: str


LowDose = Partner | Fresh


class SliceReader:
    """Reads slices of full dose and of a low dose; those used last stay in memory.

    ``single``: slices are asked for one by one; then each is simulated alone, and else eight at a time, so that the
    same slice always gets the same bits, whichever others are in memory.
    """

    def __init__(self, *, single: bool) -> None:
        self.single = single
        self._decoded: dict[tuple[Path, LowDose, int], NDArray[np.int16]] = {}  # the last used comes last
        self._buffer: NDArray[np.int16] | None = None

    def read(self, path: Path, low_dose: LowDose, chosen: Sequence[int]) -> NDArray[np.int16]:
        """Read low and full dose of the chosen slices of a pair, (2, slices, rows, columns)."""
        keys = [(path, low_dose, z) for z in chosen]
        slices = {key: self._decoded.pop(key) for key in keys if key in self._decoded}
        missing = [key for key in keys if key not in slices]
        pairs = self._read_pairs(open_pair(path), low_dose, [z for *_, z in missing]).swapaxes(0, 1)
        slices |= {key: doses.copy() for key, doses in zip(missing, pairs, strict=True)}  # out of the buffer
        self._decoded |= slices
        for oldest in list(self._decoded)[:-CACHED_SLICES]:
            del self._decoded[oldest]
        return np.stack([slices[key][::-1] for key in keys], axis=1)  # a pair reads its full dose first

    def _read_pairs(self, pair: Pair, low_dose: LowDose, chosen: Sequence[int]) -> NDArray[np.int16]:
        """Read full and low dose, stored or simulated, into the buffer: (2, slices, rows, columns)."""
        shape = (2, len(chosen), *pair.shape[1:])
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = np.empty(shape, np.int16)
        if isinstance(low_dose, Partner):
            return pair.read_slices(chosen, self._buffer, low_dose.array)
        doses = pair.read_slices(chosen, self._buffer, FULL_DOSE)
        simulator = _simulator(pair.path, low_dose.dose)
        for first, run in _neighbours(chosen):
            doses[1, run] = simulator.low_dose(doses[0, run], pair.path.stem, first, low_dose.draw, single=self.single)
        return doses

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decoded": {}, "_buffer": None}


def _neighbours(chosen: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield runs of neighbouring slices: the first one's index in the scan, and where they are in ``chosen``."""
    for _, run in groupby(enumerate(chosen), lambda item: item[1] - item[0]):
        numbered = list(run)
        (start, first), (last, _) = numbered[0], numbered[-1]
        yield first, slice(start, last + 1)


@lru_cache(_OPEN_PAIRS)
def open_pair(path: Path) -> Pair:
    """Open a pair, or return it open."""
    return Pair(path)


@lru_cache(_SIMULATORS)
def _simulator(path: Path, dose: float) -> "LowDoseSimulator":
    from data_prep.lowdose.recorded import recorded_simulator  # most of a second, spared where all noise is stored

    return recorded_simulator(open_pair(path), dose)
