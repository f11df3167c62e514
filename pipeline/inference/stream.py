"""A trained network applied to a scan of any length and size, in the memory of a few of its volumes."""

import math
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.originals import Original
from data_prep.volume import AIR_HU, Numbers, check_hu
from pipeline.inference.model_file import Model
from pipeline.intensity import HU_HIGH, HU_LOW, scaling
from pipeline.models.memory_format import lay_out
from pipeline.prefetch import one_ahead
from pipeline.sampling import Indices, cover
from pipeline.settings.cells import CellSettings
from pipeline.settings.training import SIDE_MULTIPLE

OVERLAP = 4  # a quarter of a volume's slices lie in the next one too
_MIN_SIDE = 32
Hu = NDArray[np.int16]


@dataclass(frozen=True)
class Window:
    """Slices that go through the network together, and what each adds to the whole.

    The first ``len(weights)`` of ``slices`` count; weights of a slice sum to one over all windows.
    """

    slices: Indices
    weights: NDArray[np.float32]


def windows(cell: CellSettings, available: int) -> list[Window]:
    """Volumes as in training that cover the scan; a scan that is shorter than one is mirrored at its end."""
    slices = cell.slices
    if available < slices:
        mirrored = np.pad(np.arange(available), (0, slices - available), "symmetric")
        return [Window(mirrored, np.ones(available, np.float32))]
    if cell.sampling == "strided":
        chosen, ramp = cover("strided", available, slices), np.ones(slices)
    else:
        overlap = slices // OVERLAP
        count = -(-(available - overlap) // (slices - overlap))
        starts = np.rint(np.linspace(0, available - slices, count)).astype(np.int64)
        chosen = [start + np.arange(slices) for start in starts]
        rise = np.arange(1, slices + 1)
        ramp = np.minimum(np.minimum(rise, rise[::-1]), overlap + 1)
    total = np.zeros(available)
    for one in chosen:
        total[one] += ramp
    return [Window(one, (ramp / total[one]).astype(np.float32)) for one in chosen]


def denoised(model: Model, original: Original, device: torch.device) -> Iterator[Hu]:
    """Slices from the feet to the head, HU, as soon as no later window touches them.

    Voxels outside of -1024 to 3072 HU, and padding, stay as they are.

    Raises:
        ScanError: a slice is broken; after the last one: the values are no HU.
    """
    correct = Corrector(model, device)
    plan = windows(model.cell, original.slices)
    read = lru_cache(2 * len(plan[0].slices))(original.read)
    lowest, highest = np.inf, -np.inf
    with _sums(original) as (sums, let_go):
        inputs = one_ahead(_seen(read, window.slices) for window in plan)
        for window, seen, (start, stop) in zip(plan, inputs, pairwise(_finished(plan, original.slices)), strict=True):
            for z, weight, plane in zip(window.slices, window.weights, correct(seen), strict=False):
                sums[z] += weight * plane
            for z in range(start, stop):
                source, padding = read(z)
                lowest, highest = min(lowest, float(source.min())), max(highest, float(source.max()))
                yield corrected(source, padding, sums[z])
            let_go()
    check_hu(lowest, highest)


def corrected(source: Numbers, padding: NDArray[np.bool_], correction: NDArray[np.float32]) -> Hu:
    """The source's HU with the correction, where it lies in the window and is no padding; rounded to int16."""
    inside = (source >= HU_LOW) & (source <= HU_HIGH) & ~padding
    hu = np.where(inside, np.clip(source + correction, HU_LOW, HU_HIGH), source)
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)


class Corrector:
    """What a network changes, HU, of (slices, rows, columns) of any size in the plane.

    In bfloat16 on GPUs, but for networks whose output is the image itself: its 8 bits would be steps of 16 HU.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.cell, self.device = model.cell, device
        self.lowers_precision = device.type == "cuda" and model.cell.training.residual
        self.network = lay_out(model.network.to(device), model.cell.dims)

    @torch.inference_mode()
    def __call__(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """``hu``: from -1024 to 3072. The plane is padded with air, never resampled."""
        scale = scaling(self.cell.training.scaling, hu)
        rows, columns = hu.shape[1:]
        padding = ((0, 0), (0, _missing(rows)), (0, _missing(columns)))
        whole = scale.to_network(np.pad(hu, padding, constant_values=AIR_HU))
        x = torch.from_numpy(whole).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lowers_precision):
            y = self.network(x[:, None])[:, 0] if self.cell.dims == 2 else self.network(x[None, None])[0, 0]
        change: NDArray[np.float32] = ((y.float() - x)[:, :rows, :columns] * scale.width).cpu().numpy()
        return change


def _missing(side: int) -> int:
    return max(_MIN_SIDE, -(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE) - side


def _seen(read: Callable[[int], tuple[Numbers, NDArray[np.bool_]]], slices: Indices) -> NDArray[np.float32]:
    """What a network sees of the slices: the window's HU, with air for padding."""
    planes = [np.where(padding, AIR_HU, np.clip(hu, HU_LOW, HU_HIGH)) for hu, padding in map(read, slices.tolist())]
    return np.stack(planes).astype(np.float32)


def _finished(plan: Sequence[Window], slices: int) -> list[int]:
    """How many of the first slices no window touches any more: before the first, and after each."""
    firsts = [int(window.slices[0]) for window in plan[1:]]
    return [0, *(min(firsts[k:]) for k in range(len(firsts))), slices]


@contextmanager
def _sums(original: Original) -> Iterator[tuple[NDArray[np.float32], Callable[[], None]]]:
    """Zeros of the scan's size on disk, and what takes those that were touched out of memory."""
    shape = (original.slices, *original.plane)
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * math.prod(shape))
        mapping = mmap.mmap(file.fileno(), 0)
        yield np.ndarray(shape, np.float32, mapping), partial(mapping.madvise, mmap.MADV_DONTNEED)
