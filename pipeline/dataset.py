"""Training samples from Zarr pairs: a sample depends on the seed and its index alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.errors import UserError
from data_prep.paths import pair_path
from data_prep.split import Segment
from pipeline.doses import DoseChoice
from pipeline.intensity import scaling
from pipeline.sampling import check_enough, choose, mirror
from pipeline.settings.cells import CellSettings
from pipeline.settings.told_dose import told_dose
from pipeline.slices import SliceReader

AIR_BELOW_HU = -950  # around the body; lung is above
MOST_AIR = 0.25  # share of a crop
CROP_DRAWS = 8  # at most, until a crop has less air


class PairSamples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Samples of low and full dose in network units, with the offset and width (HU) of both scalings, (2, 2).

    In 3D a sample is a volume, (1, slices, rows, columns). In 2D it is a slice, (1, rows, columns); when
    ``validating``, all slices of a volume, (slices, rows, columns). An epoch of ``per_epoch`` samples visits the
    segments in a fresh random order. The slices and the crop of sample i are drawn from (seed, i), so that ranks,
    workers and resumption do not change them. Crops with much air are drawn again.
    Flips are drawn last, and none when validating. Of several low doses a sample has the one that is drawn for it.

    Raises:
        UserError: there is no segment, one has too few slices, or its pair lacks a dose to train on.
    """

    def __init__(
        self, data: Path, segments: Sequence[Segment], cell: CellSettings, seed: int, per_epoch: int,
        *, validating: bool = False,
    ) -> None:  # fmt: skip
        if not segments:
            raise UserError("no scan to train or validate on: see data.split")
        self.slices, self.sampling = (
            (cell.validated, cell.validated_sampling) if validating else (cell.slices, cell.sampling)
        )
        for segment in segments:
            check_enough(len(segment), self.slices)
        self.data, self.segments, self.cell = data, list(segments), cell
        self.seed, self.per_epoch = seed, per_epoch
        self.flips = cell.training.flips and not validating
        self._doses = DoseChoice(cell.training, seed, per_epoch, len(segments), validating=validating)
        self._doses.check(self._path(segment) for segment in segments)
        self._reader = SliceReader(single=self.slices == 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = np.random.default_rng((self.seed, index))
        segment = self.segment(index)
        chosen = segment.start + choose(self.sampling, len(segment), self.slices, generator)
        path = self._path(segment)
        low_dose = self._doses.choose(path, index)
        pairs = self._reader.read(path, low_dose, chosen.tolist())
        dose = told_dose(self.cell.training, low_dose.dose)
        scales = [scaling(self.cell.training.scaling, volume, dose) for volume in pairs]
        cropped = self._flip(self._crop(pairs, generator), generator)
        low, full = (self._tensor(s.to_network(volume)) for s, volume in zip(scales, cropped, strict=True))
        return low, full, torch.tensor([[s.offset, s.width] for s in scales])

    def segment(self, index: int) -> Segment:
        """Return the scan, or slab, that sample ``index`` is from."""
        epoch, number = divmod(index, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch, len(self.segments))).permutation(len(self.segments))
        return self.segments[int(order[number % len(self.segments)])]

    def _path(self, segment: Segment) -> Path:
        return pair_path(self.data, segment.dataset, segment.scan)

    def _crop(self, pairs: NDArray[np.int16], generator: np.random.Generator) -> NDArray[np.int16]:
        """Crop low and full dose alike; crops of air teach little but that the low dose is clipped there."""
        side = self.cell.training.crop
        if side is None:
            return pairs
        for _ in range(CROP_DRAWS):
            top, left = (int(generator.integers(length - side + 1)) for length in pairs.shape[-2:])
            cropped = pairs[..., top : top + side, left : left + side]
            if (cropped[1] < AIR_BELOW_HU).mean() < MOST_AIR:
                break
        return cropped

    def _flip(self, pairs: NDArray[np.int16], generator: np.random.Generator) -> NDArray[np.int16]:
        """Mirror low and full dose alike, and turn them where rows and columns are as many."""
        if not self.flips:
            return pairs
        rows, columns = pairs.shape[-2:]
        return np.ascontiguousarray(mirror(pairs, int(generator.integers(8 if rows == columns else 4))))

    def _tensor(self, volume: NDArray[np.float32]) -> Tensor:
        tensor = torch.from_numpy(volume)
        return tensor if self.cell.dims == 2 else tensor.unsqueeze(0)


class RankBatches:
    """Sample indices of a rank's batches, from number ``first`` up to ``last`` (excluded).

    Batches follow one another in the order of samples, and rank r of R takes the r-th of every R. So all ranks
    together see the samples in the same order, however many ranks there are.
    """

    def __init__(self, first: int, last: int, batch: int, rank: int, size: int) -> None:
        self.numbers, self.batch, self.rank, self.size = range(first, last), batch, rank, size

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.numbers:
            start = (number * self.size + self.rank) * self.batch
            yield list(range(start, start + self.batch))

    def __len__(self) -> int:
        return len(self.numbers)
