"""The way of a scan through a trained network, slice by slice: for what is judged and for what is shipped."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.files import naming_full_disk
from data_prep.volume import AIR_HU, Numbers
from pipeline.inference.corrector import Corrector, add_change
from pipeline.inference.windows import count_complete, plan_windows
from pipeline.intensity import HU_HIGH, HU_LOW
from pipeline.prefetch import prefetch
from pipeline.sampling import Indices, crop_centre

Slice = tuple[Numbers, NDArray[np.bool_]]
"""HU of any number type, (rows, columns), and which voxels are padding."""


class Scan(Protocol):
    """A scan whose slices are read on demand, such as a :class:`data_prep.originals.Original`."""

    @property
    def slices(self) -> int:
        """Number of slices."""

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of a slice."""

    def read(self, z: int, /) -> Slice:
        """Read slice ``z``; threads may call it at the same time."""


@dataclass(frozen=True)
class ArrayScan:
    """A scan in memory, (slices, rows, columns) in HU, without padding."""

    hu: NDArray[np.int16]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.hu)

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        _, rows, columns = self.hu.shape
        return rows, columns

    def read(self, z: int, /) -> Slice:
        """Read slice ``z``."""
        return self.hu[z], np.zeros(self.plane, np.bool_)


def denoise_slices(scan: Scan, correct: Corrector) -> Iterator[NDArray[np.int16]]:
    """Yield the denoised slices from the first to the last, HU, each as soon as no later window holds it.

    Of each slice comes the centre of ``correct.crop`` pixels a side, or all of it. Voxels outside of -1024 to 3072
    HU, and padding, stay as they are. Memory holds a few windows, whatever the scan's length.

    Raises:
        ScanError: a slice of the scan is broken, or the network's output is not finite.
    """
    plan = plan_windows(correct.cell, scan.slices)
    works_ahead = correct.device.type == "cuda"  # a CPU has no time to gain, and its threads are this thread's
    windows = 4 if works_ahead else 3  # between the slice that is read and the one that is written
    read = lru_cache(windows * len(plan[0].slices))(scan.read)
    plane = scan.plane if correct.crop is None else (correct.crop, correct.crop)
    with _zeros_on_disk((scan.slices, *plane)) as (changes, release):
        volumes = prefetch(_clip_volume(read, window.slices) for window in plan)
        corrections: Iterator[NDArray[np.float32]] = map(correct, volumes)
        if works_ahead:  # on the next volume, while this one is added to the slices
            corrections = prefetch(corrections)
        complete = pairwise(count_complete(plan, scan.slices))
        for window, correction, (start, stop) in zip(plan, corrections, complete, strict=True):
            for z, weight, change in zip(window.slices, window.weights, correction, strict=False):
                changes[z] += weight * change
            for z in range(start, stop):
                hu, padding = (crop_centre(image, correct.crop) for image in read(z))
                yield add_change(hu, padding, changes[z])
            release()


def _clip_volume(read: Callable[[int], Slice], slices: Indices) -> NDArray[np.float32]:
    """Read the slices as networks take them: HU from -1024 to 3072, with air for padding."""
    planes = [np.where(padding, AIR_HU, np.clip(hu, HU_LOW, HU_HIGH)) for hu, padding in map(read, slices.tolist())]
    return np.stack(planes).astype(np.float32)


@contextmanager
def _zeros_on_disk(shape: tuple[int, ...]) -> Iterator[tuple[NDArray[np.float32], Callable[[], None]]]:
    """Yield zeros in a temporary file, and a function that drops their pages from memory."""
    with tempfile.TemporaryFile() as file:
        with naming_full_disk(Path(tempfile.gettempdir())):  # which must not show only in a mapped page, by a signal
            os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        mapping = mmap.mmap(file.fileno(), 0)
        yield np.ndarray(shape, np.float32, mapping), partial(mapping.madvise, mmap.MADV_DONTNEED)
