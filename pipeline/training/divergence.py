"""Checks that a training still works with finite numbers, and is validated on noise."""

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from data_prep.errors import UserError
from pipeline.dataset import PairSamples
from pipeline.settings.cells import CellSettings
from pipeline.training.errors import TrainingError
from pipeline.training.loader import batches_of
from pipeline.training.ranks import Ranks

_REMEDY = "earlier checkpoints are kept, and a smaller training.learning_rate may help"


def check_finite(name: str, number: float, cell: CellSettings, step: int) -> None:
    """Stop the training after ``step`` steps if a number is not finite.

    Raises:
        TrainingError: it is NaN or infinite.
    """
    if not math.isfinite(number):
        raise TrainingError(f"the {name} of cell {cell.id} is {number} at step {step}; {_REMEDY}")


def check_noise(validation: Mapping[str, float], cell: CellSettings) -> None:
    """Check that there is an error to lower where a training is validated: its own is compared with that of the input.

    Raises:
        UserError: low and full dose are the same there.
    """
    if validation["low_dose_rmse_hu"] == 0:
        raise UserError(
            f"cell {cell.id} is validated where the low dose has no noise, as in padding: take a larger training.crop, "
            "more training.validation_samples, or training.validation: scans"
        )


def check_steps(
    losses_and_norms: Tensor, steps_taken: int, samples: PairSamples, cell: CellSettings, ranks: Ranks
) -> None:
    """Stop the training at the first of the last steps in which a loss or gradient of any rank is not finite.

    Every rank must call it.

    Args:
        losses_and_norms: of this rank's last steps, (steps, 2).
        steps_taken: the number of steps so far, these among them.
        samples: the training's samples, which name their scans.
        cell: the settings.
        ranks: the ranks of the training.

    Raises:
        TrainingError: there is such a step; names the scans of the ranks whose loss is not finite, if any is, else of
            those whose gradient is not.
    """
    finite = losses_and_norms.isfinite().tolist()
    firsts = _gather(next((step for step, numbers in enumerate(finite) if not all(numbers)), len(finite)), ranks)
    first = min(firsts)
    if first == len(finite):
        return
    step = steps_taken - len(finite) + first
    bad_losses = _gather(int(not finite[first][0]), ranks)  # the exchange spreads a gradient that is no number
    guilty = [rank for rank, is_bad in enumerate(bad_losses) if is_bad] or [
        rank for rank, number in enumerate(firsts) if number == first
    ]
    scans = _scans(step, guilty, samples, cell, ranks.world.size)
    raise TrainingError(
        f"loss or gradient of cell {cell.id} is not finite at step {step + 1}, where rank "
        f"{', '.join(map(str, guilty))} saw {', '.join(scans)}; {_REMEDY}"
    )


def _gather(number: int, ranks: Ranks) -> list[int]:
    """List the numbers of all ranks."""
    slots = {str(rank): float(number if rank == ranks.world.rank else 0) for rank in range(ranks.world.size)}
    return [int(x) for x in ranks.sum(slots).values()]


def _scans(step: int, guilty: Iterable[int], samples: PairSamples, cell: CellSettings, size: int) -> list[str]:
    """Name the scans that these ranks saw in a step."""
    batches = [batch for rank in guilty for batch in batches_of(cell, range(step, step + 1), rank, size)]
    segments = [samples.segment(index) for batch in batches for index in batch]
    return sorted({f"{segment.dataset}/{segment.scan}" for segment in segments})
