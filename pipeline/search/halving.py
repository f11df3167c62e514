"""Successive halving by generations: which trials train up to which share of their training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.settings.search import SearchSettings


@dataclass(frozen=True)
class Rung:
    """Trials of each network that train up to the same share of their training.

    ``generation`` and ``number`` count from 1, ``trials`` from 0: those of the whole generation, of which at most
    ``size`` are trained. ``share``: of the training, 1 on the last rung.
    """

    generation: int
    number: int
    trials: range
    share: float
    size: int

    @property
    def is_first(self) -> bool:
        """Whether all trials of the generation train on it."""
        return self.number == 1


def rungs_of(search: SearchSettings) -> list[Rung]:
    """List the rungs of a search in the order in which they are trained: generation after generation."""
    shares = (*(search.halving.rungs if search.halving else ()), 1.0)
    reduction = search.halving.reduction if search.halving else 1
    size, rungs = search.generation_size, list[Rung]()
    for generation, first in enumerate(range(0, search.trials, size), start=1):
        trials = range(first, min(first + size, search.trials))
        for number, share in enumerate(shares, start=1):
            rungs.append(Rung(generation, number, trials, share, max(1, len(trials) // reduction ** (number - 1))))
    return rungs


def choose(values: Mapping[int, float | None], size: int) -> set[int]:
    """Choose the trials that go on: those of the lowest values, of equal ones the first; None has failed."""
    ranked = sorted((value, number) for number, value in values.items() if value is not None and math.isfinite(value))
    return {number for _, number in ranked[:size]}


def last_epoch(share: float, epochs: int, validation_epochs: int) -> int:
    """Return the number of epochs that a share of a training takes, rounded up to one that ends in a validation."""
    interval = min(validation_epochs, epochs)
    return min(
        epochs, interval * max(1, math.ceil(round(share * epochs / interval, 9)))
    )  # 0.07 * 100 is a little over 7
