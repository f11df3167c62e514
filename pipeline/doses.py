"""Which low dose a training sample has: drawn among those of its pair, or simulated anew."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep.errors import UserError
from data_prep.store import Pair
from pipeline.settings.training import TrainingSettings
from pipeline.slices import Fresh, LowDose, open_pair

_STREAM = 1  # of random numbers, beside that of slices and crop


class DoseChoice:
    """Chooses the low dose of each sample from its seed and index alone.

    In training it is drawn; samples of one epoch with the same slice and dose have the same noise, and fresh noise is
    another in each epoch. In validation the low doses take turns, the same ones for each segment. A dose that is
    stored is validated on as it is stored.
    """

    def __init__(
        self, training: TrainingSettings, seed: int, per_epoch: int, segments: int, *, validating: bool
    ) -> None:
        self.doses, self.fresh = training.doses, training.fresh
        self.seed, self.per_epoch, self.segments, self.validating = seed, per_epoch, segments, validating

    def check(self, paths: Iterable[Path]) -> None:
        """Check that each pair has the doses; pairs are opened only where the settings choose any.

        Raises:
            UserError: a pair lacks them, or fresh noise cannot be simulated for it.
        """
        if self.doses or self.fresh:
            for path in dict.fromkeys(paths):
                self._low_doses(open_pair(path), 0)

    def choose(self, path: Path, index: int) -> LowDose:
        """Return the low dose of sample ``index``, which is from this pair."""
        low_doses = self._low_doses(open_pair(path), index // self.per_epoch)
        if len(low_doses) == 1:
            return low_doses[0]
        if self.validating:
            return low_doses[(index // self.segments + index % self.segments) % len(low_doses)]
        return low_doses[int(np.random.default_rng((self.seed, index, _STREAM)).integers(len(low_doses)))]

    def validated(self, path: Path) -> list[LowDose]:
        """Return a low dose of each dose, at which whole scans are validated."""
        return [low for low in self._low_doses(open_pair(path), 0) if isinstance(low, Fresh) or low.realisation == 1]

    def _low_doses(self, pair: Pair, epoch: int) -> list[LowDose]:
        stored: list[LowDose] = [p for p in pair.partners if self.doses is None or p.dose in self.doses]
        if not self.fresh:
            if not stored:
                raise UserError(
                    f"{pair.path} has none of training.doses {_listed(self.doses)}: store one of them, or set "
                    "training.fresh"
                )
            return stored
        from data_prep.lowdose.recorded import check_recorded  # most of a second, spared where all noise is stored

        check_recorded(pair)
        doses = self.doses or tuple(dict.fromkeys(partner.dose for partner in pair.partners if partner.dose))
        if not self.validating:
            return [Fresh(dose, f"{dose}/fresh/{self.seed}/{epoch}") for dose in doses]
        simulated = [dose for dose in doses if dose not in pair.noise_models]
        return [*stored, *(Fresh(dose, f"{dose}/fresh/{self.seed}") for dose in simulated)]


def _listed(doses: Iterable[float] | None) -> str:
    return ", ".join(f"{dose:g}" for dose in doses or ())
