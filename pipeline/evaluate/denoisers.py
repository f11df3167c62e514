"""Denoisers of a run: a trained network, a classical one, and the low-dose input itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.partners import Partner
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

Denoiser = Callable[[NDArray[np.int16], float | None], NDArray[Any]]
"""Function from a low dose, (slices, rows, columns) in HU, and its fraction of the full dose, None where it is not
known, to the denoised centre that is judged."""

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

    def denoise(low: NDArray[np.int16], dose: float | None) -> NDArray[Any]:
        correct.dose = dose
        return np.stack(list(denoise_slices(ArrayScan(low), correct)))

    return denoise


def identity(settings: EvaluateSettings) -> Denoiser:
    """Return the denoiser that changes nothing: the baseline of every table."""
    return lambda low, dose: crop_centre(low, settings.crop)


def judged_partners(pair: Pair) -> list[Partner]:
    """List the low doses of a pair that are judged: of each dose the first realisation, the lowest dose first."""
    return [partner for partner in pair.partners if partner.realisation == 1]


def tune_classical(
    name: ClassicalName, data: Path, validation: Sequence[Segment], settings: EvaluateSettings
) -> tuple[Denoiser, dict[float | None, float]]:
    """Tune a classical denoiser at each dose; return it and its strengths (HU) by dose.

    A strength is the best on ``TUNING_SLICES`` slices, in slabs that are spread over the validation part. With a single
    simulated dose there is one for all scans, under None.
    """
    method, tuned = CLASSICAL[name], dict[float | None, float]()
    for dose, slabs in _slabs_by_dose(data, validation, method.slices, settings.crop):
        tuned[dose] = choose_strength(method, slabs)

    def denoise(low: NDArray[np.int16], dose: float | None) -> NDArray[Any]:
        if len(tuned) > 1 and dose not in tuned:
            kind = "measured low doses" if dose is None else f"dose {dose:g}"
            raise UserError(f"{name} has no strength for {kind}, of which the validation part has no scan: split anew")
        strength = tuned[dose] if len(tuned) > 1 else next(iter(tuned.values()))
        return method.denoise(crop_centre(low, settings.crop), strength, threads_of(settings))

    return denoise, tuned


def _slabs_by_dose(
    data: Path, segments: Sequence[Segment], slices: int, crop: int | None
) -> Iterator[tuple[float | None, Iterator[SlabPair]]]:
    """Yield each dose with slabs of the segments that have it; with a single simulated dose all are together."""
    partners = [
        (segment, partner)
        for segment in segments
        for partner in judged_partners(Pair(pair_path(data, segment.dataset, segment.scan)))
    ]
    doses = list(dict.fromkeys(partner.dose for _, partner in partners))
    if sum(dose is not None for dose in doses) < 2:
        yield None, _spread_slabs(data, partners, slices, crop)
        return
    for dose in doses:
        yield dose, _spread_slabs(data, [pair for pair in partners if pair[1].dose == dose], slices, crop)


def _spread_slabs(
    data: Path, partners: Sequence[tuple[Segment, Partner]], slices: int, crop: int | None
) -> Iterator[SlabPair]:
    """Read slabs of so many slices, or of the whole segment where it has fewer."""
    starts = [
        (segment, partner, z)
        for segment, partner in partners
        for z in range(segment.start, max(segment.start + 1, segment.stop - slices + 1))
    ]
    chosen = np.unique(np.linspace(0, len(starts) - 1, TUNING_SLICES // slices).round().astype(int))
    for segment, partner, z in (starts[number] for number in chosen):
        slab = range(z, min(z + slices, segment.stop))
        full, low = Pair(pair_path(data, segment.dataset, segment.scan)).read_slices(slab, low=partner.array)
        yield crop_centre(low, crop), crop_centre(full, crop)
