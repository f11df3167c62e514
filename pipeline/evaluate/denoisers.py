"""Denoisers: a trained network, a classical one, and the low-dose input itself."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.paths import pair_path
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.inference.judged import centre, denoise
from pipeline.quality.classical import SlicePair, choose_strength, total_variation
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import EvaluateSettings
from pipeline.training.distributed import device_of
from pipeline.training.trainer import load_trained
from pipeline.training.world import World

Denoiser = Callable[[NDArray[np.int16]], NDArray[Any]]
"""Low dose, (slices, rows, columns) in HU, to the centre of it that is judged, denoised."""

TUNING_SLICES = 16


def network(cell: CellSettings, cell_folder: Path, settings: EvaluateSettings) -> Denoiser:
    """The trained network of a cell."""
    torch.set_num_threads(settings.threads)
    model = load_trained(cell, cell_folder).to(device_of(World(), settings.device))
    return lambda low: denoise(model, cell, low, settings.crop)


def input_itself(settings: EvaluateSettings) -> Denoiser:
    """What does nothing."""
    return lambda low: centre(low, settings.crop)


def classical(data: Path, validation: Sequence[Segment], settings: EvaluateSettings) -> tuple[Denoiser, float]:
    """Total variation and its strength (HU): the best on ``TUNING_SLICES`` slices spread over the validation part."""
    strength = choose_strength(_spread(data, validation, settings.crop))
    return lambda low: total_variation(centre(low, settings.crop), strength), strength


def _spread(data: Path, segments: Sequence[Segment], crop: int | None) -> Iterator[SlicePair]:
    places = [(segment, z) for segment in segments for z in range(segment.start, segment.stop)]
    chosen = np.unique(np.linspace(0, len(places) - 1, TUNING_SLICES).round().astype(int))
    for segment, z in (places[number] for number in chosen):
        full, low = Pair(pair_path(data, segment.dataset, segment.scan)).read_slices([z])
        yield centre(low, crop)[0], centre(full, crop)[0]
