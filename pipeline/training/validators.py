"""Ways to validate a training: by crops like those that it learns from, or by whole scans as they are shipped."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.paths import pair_path
from data_prep.split import Segment
from pipeline.dataset import PairSamples
from pipeline.doses import DoseChoice
from pipeline.inference.corrector import Corrector
from pipeline.inference.scan import ArrayScan, denoise_slices
from pipeline.settings.cells import CellSettings
from pipeline.slices import SliceReader
from pipeline.training.step import TrainingStep
from pipeline.training.world import World

VALIDATION_SEED = 2023  # the same crops, and noise, for every cell
Sums = Mapping[str, float]
"""Parts of the sums that :func:`~pipeline.training.validation.summed_up` takes."""


class Validator(Protocol):
    """Judges a network on the validation part, in rounds between which all ranks may meet."""

    def rounds(self, world: World) -> int:
        """Return the number of rounds, the same on every rank."""

    def judge(self, step: TrainingStep, world: World) -> Iterator[Sums]:
        """Yield sums of errors over this rank's share, at most one a round."""


@dataclass(frozen=True)
class CropValidator:
    """Judges ``count`` samples, drawn and cropped as those of the training."""

    samples: PairSamples
    count: int

    def rounds(self, world: World) -> int:
        """A round has a sample a rank."""
        return math.ceil(self.count / world.size)

    def judge(self, step: TrainingStep, world: World) -> Iterator[Sums]:
        """Yield the errors of this rank's samples, and the losses."""
        for index in range(world.rank, self.count, world.size):
            yield step.judge(*self.samples[index])


class ScanValidator:
    """Judges whole scans as ``quarterdose denoise`` writes them: every slice, whole planes, windows averaged.

    Of several doses to train on, each scan is judged at each. Each rank takes every so many-th, and a round is a slice
    of each.
    """

    def __init__(self, data: Path, segments: Sequence[Segment], cell: CellSettings, step: TrainingStep) -> None:
        choice = DoseChoice(cell.training, VALIDATION_SEED, 1, len(segments), validating=True)
        paths = [(pair_path(data, segment.dataset, segment.scan), segment) for segment in segments]
        self._scans = [(path, segment, low) for path, segment in paths for low in choice.validated(path)]
        self._correct = _WatchedCorrector(deepcopy(step.judged).eval(), cell, step.device)

    def rounds(self, world: World) -> int:
        """Return the slices of the rank that has most."""
        lengths = [len(segment) for _, segment, _ in self._scans]
        return max(sum(lengths[rank :: world.size]) for rank in range(world.size))

    def judge(self, step: TrainingStep, world: World) -> Iterator[Sums]:
        """Yield the errors of the slices of this rank's scans."""
        self._correct.network.load_state_dict(step.judged.state_dict())
        for path, segment, low_dose in self._scans[world.rank :: world.size]:
            low, full = SliceReader(single=False).read(path, low_dose, range(segment.start, segment.stop))
            self._correct.dose = low_dose.dose
            denoised = denoise_slices(ArrayScan(low), self._correct)
            for slices in zip(denoised, low, full, strict=True):
                yield self._errors(*slices)

    def _errors(self, output: NDArray[np.int16], low: NDArray[np.int16], full: NDArray[np.int16]) -> Sums:
        squares, low_squares = (float(np.square(np.subtract(x, full, dtype=np.float64)).sum()) for x in (output, low))
        squares = squares if self._correct.is_finite else math.nan
        return {"squares": squares, "low_squares": low_squares, "voxels": float(full.size)}


class _WatchedCorrector(Corrector):
    """Corrector that notices changes that are not finite and goes on, as the other ranks do."""

    is_finite = True

    def __call__(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        change = self.predict(hu)
        self.is_finite &= bool(np.isfinite(change).all())
        return np.nan_to_num(change)
