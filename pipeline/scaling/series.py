"""Series of points that differ in their rank count alone, each with the time of a sample."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.scaling.disturbance import YES, not_measured
from pipeline.scaling.estimates import MOST_BLOCKS, Estimate, Numbers, Spread, blocks, pooled, spread_of
from pipeline.scaling.points import COMPARABLE, SERIES_SETTINGS, finished_in_grid

WARM, WHOLE = "warm steps", "whole training: too short to leave the start out"


@dataclass(frozen=True)
class Point:
    """Trainings that differ in their seed alone, as rows of ``cells.csv``.

    ``seconds``: of a sample, of all ranks together, and ``levels`` the same of each training; ``timing``: what was
    timed. ``left_out``: ids of trainings that were disturbed. ``is_left_out``: all were, so that neither fits nor
    baselines may use the point; else the ``trainings`` are the others.
    """

    ranks: int
    trainings: pd.DataFrame
    left_out: list[str]
    levels: Numbers
    seconds: Estimate
    timing: str
    is_left_out: bool

    @property
    def cell(self) -> str:
        """Id of the first seed's training."""
        return str(self.trainings["cell"].iloc[0])

    @property
    def disturbed(self) -> str:
        """Ids of the disturbed among its trainings."""
        return " ".join(self.trainings.loc[self.trainings["disturbed"] == YES, "cell"])


@dataclass(frozen=True)
class RankSeries:
    """Points that differ in their rank count alone, the fewest ranks first, and the ``settings`` that they share."""

    settings: dict[str, object]
    points: list[Point]

    @property
    def usable(self) -> list[Point]:
        """Points whose trainings were not all disturbed; the first is the baseline."""
        return [point for point in self.points if not point.is_left_out]

    @property
    def doubts(self) -> str:
        """Say which trainings fits leave out, and which ones may have been disturbed; empty if none."""
        cells = [cell for point in self.points for cell in point.left_out]
        left_out = f"left out, as disturbed: {' '.join(cells)}" if cells else ""
        return "; ".join(filter(None, [left_out, not_measured(pd.concat([point.trainings for point in self.points]))]))


def rank_series(cells: pd.DataFrame, epochs: pd.DataFrame) -> Iterator[RankSeries]:
    """Yield the finished trainings of a study in groups that may be compared.

    Args:
        cells: ``cell, state, in_grid, arm, alike, ranks, samples, training_seconds, disturbed, left_out`` and
            :data:`~pipeline.scaling.points.SERIES_SETTINGS`. Cells are compared only where ``alike``, a digest of all
            settings but ranks and seed, is the same.
        epochs: ``cell, epoch, seconds, samples``, of warm steps.
    """
    by_cell = {str(cell): group[["seconds", "samples"]].to_numpy(float) for cell, group in epochs.groupby("cell")}
    for _, group in finished_in_grid(cells).groupby(COMPARABLE, sort=False):
        is_warm = all(cell in by_cell for cell in group["cell"])
        settings = {name: group[name].iloc[0] for name in SERIES_SETTINGS}
        counts = group.sort_values("ranks", kind="stable").groupby("ranks")
        points = [_point(int(str(ranks)), seeds, by_cell if is_warm else {}) for ranks, seeds in counts]
        yield RankSeries(settings, _with_spread(points))


def _with_spread(points: list[Point]) -> list[Point]:
    """Let points share the spread of all seeds where one has a single training, whose epochs do not hold it.

    But for a point whose trainings were all disturbed, as their spread is another.
    """
    spread = spread_of(list(point.levels) for point in points if not point.is_left_out)
    if not spread.freedom or all(len(point.levels) > 1 for point in points):
        return points
    return [point if point.is_left_out and len(point.levels) > 1 else _sharing(point, spread) for point in points]


def _sharing(point: Point, spread: Spread) -> Point:
    seeds = len(point.levels)
    variance = spread.variance * point.seconds.mean**2 / seeds
    over = f"{seeds} seed{'s' if seeds > 1 else ''}, with the spread of all rank counts' seeds"
    return replace(point, seconds=Estimate(point.seconds.mean, variance, spread.freedom, over, is_shared=True))


def _point(ranks: int, cells: pd.DataFrame, by_cell: Mapping[str, Numbers]) -> Point:
    is_left_out = bool(cells["left_out"].all())
    trainings = cells if is_left_out else cells[~cells["left_out"]]
    left_out = list(cells.loc[cells["left_out"], "cell"])
    if by_cell:
        epochs, timing = [by_cell[cell] for cell in trainings["cell"]], WARM
    else:
        sums = trainings[["training_seconds", "samples"]].to_numpy(float)
        epochs, timing = list(sums[:, None]), WHOLE
    seconds, samples = np.stack([rows.sum(axis=0) for rows in epochs], axis=1)
    return Point(ranks, trainings, left_out, seconds / samples, _estimate(epochs), timing, is_left_out)


def _estimate(trainings: list[Numbers]) -> Estimate:
    """Estimate the seconds of a sample from the ``seconds, samples`` of each epoch of each training."""
    if len(trainings) > 1:
        seconds, samples = np.stack([epochs.sum(axis=0) for epochs in trainings], axis=1)
        counts = " or ".join(map(str, sorted({len(epochs) for epochs in trainings})))
        return pooled(seconds, samples, f"{len(trainings)} seeds" + (f" of {counts} epochs" if counts != "1" else ""))
    (epochs,) = trainings
    count = min(len(epochs), MOST_BLOCKS)
    in_blocks = f" in {count} blocks" if count < len(epochs) else ""
    over = f"{len(epochs)} epochs{in_blocks} of one seed"
    seconds, samples = blocks(epochs, count).T
    return pooled(seconds, samples, over if count > 1 else "nothing: one training, with nothing to repeat")
