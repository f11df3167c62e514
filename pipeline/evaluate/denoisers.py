"""Denoisers of a run: a trained network, a classical one, and the low-dose input itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.paths import pair_path
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.inference.corrector import Corrector
from pipeline.inference.scan import ArrayScan, denoise_slices
from pipeline.quality.classical import CLASSICAL, SlabPair, choose_strength
from pipeline.sampling import crop_centre
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import ClassicalName
from pipeline.settings.run import EvaluateSettings
from pipeline.training.checkpoints import load_trained
from pipeline.training.distributed import device_of
from pipeline.training.world import World

Denoiser = Callable[[NDArray[np.int16]], NDArray[Any]]
"""Function from the low dose, (slices, rows, columns) in HU, to the denoised centre that is judged."""

TUNING_SLICES = 16


def threads_of(settings: EvaluateSettings) -> int:
    """Return the CPU threads of this process, by default as many as it has cores."""
    return settings.threads or len(os.sched_getaffinity(0))


def load_denoiser(cell: CellSettings, cell_folder: Path, settings: EvaluateSettings) -> Denoiser:
    """Load the trained network of a cell."""
    torch.set_num_threads(threads_of(settings))
    device = device_of(World(), settings.device)
    return network_denoiser(Corrector(load_trained(cell, cell_folder), cell, device, settings.crop))


def network_denoiser(correct: Corrector) -> Denoiser:
    """Return the denoiser of a network, whose output is what ``quarterdose denoise`` writes, int16."""
    return lambda low: np.stack(list(denoise_slices(ArrayScan(low), correct)))


def identity(settings: EvaluateSettings) -> Denoiser:
    """Return the denoiser that changes nothing: the baseline of every table."""
    return lambda low: crop_centre(low, settings.crop)


def tune_classical(
    name: ClassicalName, data: Path, validation: Sequence[Segment], settings: EvaluateSettings
) -> tuple[Denoiser, float]:
    """Tune a classical denoiser; return it and its strength (HU).

    The strength is the best on ``TUNING_SLICES`` slices, in slabs that are spread over the validation part.
    """
    method = CLASSICAL[name]
    strength = choose_strength(method, _spread_slabs(data, validation, method.slices, settings.crop))
    return lambda low: method.denoise(crop_centre(low, settings.crop), strength, threads_of(settings)), strength


def _spread_slabs(data: Path, segments: Sequence[Segment], slices: int, crop: int | None) -> Iterator[SlabPair]:
    """Read slabs of so many slices, or of the whole segment where it has fewer."""
    starts = [
        (segment, z)
        for segment in segments
        for z in range(segment.start, max(segment.start + 1, segment.stop - slices + 1))
    ]
    chosen = np.unique(np.linspace(0, len(starts) - 1, TUNING_SLICES // slices).round().astype(int))
    for segment, z in (starts[number] for number in chosen):
        slab = range(z, min(z + slices, segment.stop))
        full, low = Pair(pair_path(data, segment.dataset, segment.scan)).read_slices(slab)
        yield crop_centre(low, crop), crop_centre(full, crop)
