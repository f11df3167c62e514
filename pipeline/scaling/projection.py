"""Table of how far a study's trainings would scale, by a model of a step that is fitted to their measured steps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.scaling.disturbance import not_measured
from pipeline.scaling.estimates import LEVEL, NOTHING, Numbers, Spread, block_count, spread_of
from pipeline.scaling.implausible import WITHOUT_INTERVAL
from pipeline.scaling.points import COMPARABLE, SERIES_SETTINGS, finished_in_grid
from pipeline.scaling.step_model import ASSUMED, VARIANTS, Link, MeasuredStep, StepModel, fit

RANKS = tuple(2**power for power in range(3, 13))
"""8 to 4,096."""
LEAST_COUNTS, LEAST_NODES = 3, 2
"""Rank counts, and nodes of the largest: with fewer nothing tells how a step grows, or what a network costs."""
FURTHEST = 8
"""Times the largest measured count: beyond it a row is a scenario, what the model would mean, and no forecast."""
LINK_FACTOR = 4.0
"""An assumed latency or bandwidth may be so many times smaller or larger: from 100 Gbit/s Ethernet to NVLink's."""
GRADIENT_BYTES = 4
END = 0.5
_SETTINGS = [name for name in SERIES_SETTINGS if name != "work"]  # a step is the same in strong and in weak scaling
_DRAWS, _SEED = 400, 2026
_TIMES = ["seconds", "own_seconds", "slowest_seconds"]


@dataclass(frozen=True)
class CountedStep:
    """Steps on one number of ranks and nodes.

    ``parts``: compute, visible exchange and stragglers of each unit, (units, 3); units are trainings, or blocks of the
    steps of a single one. ``spread_sd``: relative deviation by which the seeds of a single one would differ, as those
    of other rank counts do; 0 if it has several, or if none has.
    """

    ranks: int
    nodes: int
    parts: Numbers
    over: str
    spread_sd: float = 0.0

    def mean(self) -> MeasuredStep:
        """Return the mean of the units."""
        return self._step(self.parts.mean(axis=0))

    @property
    def deviations(self) -> Numbers:
        """Of each unit, and last of the spread: normal numbers times these are a deviation of the mean, (n, 3)."""
        count, mean = len(self.parts), self.parts.mean(axis=0)
        of_units = (self.parts - mean) / np.sqrt(count * (count - 1)) if count > 1 else np.empty((0, 3))
        return np.vstack([of_units, *([self.spread_sd * mean] if self.spread_sd else [])])

    def moved(self, factors: Numbers) -> MeasuredStep:
        """Return the mean, moved by so much of each deviation."""
        return self._step(self.parts.mean(axis=0) + factors @ self.deviations)

    def seconds(self) -> float:
        """Return the mean seconds of a step."""
        return float(self.parts.sum(axis=1).mean())

    def _step(self, parts: Numbers) -> MeasuredStep:
        compute, exchange, stragglers = np.maximum(0, parts).tolist()
        return MeasuredStep(self.ranks, self.nodes, compute, exchange, stragglers)


def projection(cells: pd.DataFrame, steps: pd.DataFrame, data_rate: float = np.inf) -> pd.DataFrame:
    """Forecast the efficiency of each series from 8 to 4,096 ranks, none below its baseline: a row a rank count.

    Args:
        cells: ``cell, state, in_grid, arm, alike, ranks, nodes, parameters, batch, accumulation, disturbed, left_out``
            and :data:`~pipeline.scaling.points.SERIES_SETTINGS`.
        steps: ``cell, seconds, own_seconds, slowest_seconds, warm``.
        data_rate: samples a second that the file system gives all ranks together.

    Returns:
        ``law, network … data, ranks, kind, baseline_ranks, step_seconds, speed_up, efficiency`` with ``_low`` and
        ``_high`` of both, and ``interval_over, limit, ends, fitted, assumed, reason``. Both are against the fewest
        measured ranks, ``baseline_ranks``, as in ``speedup.csv``. ``kind``: measured range, forecast
        or, beyond :data:`FURTHEST` times the largest measured count, scenario. The 95 % interval is over the units of
        ``interval_over``, the models of :data:`~pipeline.scaling.step_model.VARIANTS` and assumed links of a range.
        ``limit``: the part that costs most, or data if all else waits for it; ``ends``: whether efficiency is below a
        half; ``fitted``: the measured rank counts; ``assumed``: what was not measured. A series with too little to
        forecast from has one row without numbers, whose ``reason`` says why; else it names the trainings whose load was
        not measured.
    """
    warm = {str(cell): group[_TIMES].to_numpy(float) for cell, group in steps[steps["warm"]].groupby("cell")}
    groups = finished_in_grid(cells).groupby(COMPARABLE, sort=False)
    rows = [row for _, group in groups for row in _rows(group, warm, data_rate)]
    columns = ["law", *_SETTINGS, "ranks", "kind", "baseline_ranks", "step_seconds", "speed_up", "speed_up_low",
               "speed_up_high", "efficiency", "efficiency_low", "efficiency_high", "interval_over", "limit", "ends",
               "fitted", "assumed", "reason"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _rows(group: pd.DataFrame, warm: Mapping[str, Numbers], data_rate: float) -> Iterator[dict[str, object]]:
    first, used = group.iloc[0], group[~group["left_out"]]
    measured, doubt = list(_measured(used, warm)), not_measured(used)
    common = {"law": "step model", **{name: first[name] for name in _SETTINGS},
              "fitted": " ".join(str(step.ranks) for step in measured)}  # fmt: skip
    obstacle = _obstacle(measured, disturbed=int(group["left_out"].sum()))
    if obstacle:
        yield {**common, "reason": "; ".join(filter(None, [obstacle, doubt]))}
        return
    size, samples = float(first["parameters"]) * GRADIENT_BYTES, float(first["batch"] * first["accumulation"])
    model = replace(fit([step.mean() for step in measured], size), data_rate=data_rate)
    drawn = [replace(draw, data_rate=data_rate) for draw in _draws(measured, size)]
    common |= {"baseline_ranks": measured[0].ranks, "assumed": "; ".join(model.assumed), "reason": doubt,
               "interval_over": _interval_over(measured, has_interval=bool(drawn))}  # fmt: skip
    for ranks in (ranks for ranks in RANKS if ranks >= measured[0].ranks):
        yield {**common, **_forecast(model, drawn, ranks, samples, measured)}


def _measured(cells: pd.DataFrame, warm: Mapping[str, Numbers]) -> Iterator[CountedStep]:
    """Yield the warm steps of each rank count that has any."""
    trainings = {ranks: [_parts(warm[cell]) for cell in same["cell"] if cell in warm]
                 for ranks, same in cells.groupby("ranks")}  # fmt: skip
    spread = spread_of([steps.sum(axis=1).mean() for steps in seeds] for seeds in trainings.values())
    nodes = cells.groupby("ranks")["nodes"].max()
    for ranks, seeds in trainings.items():
        if seeds:
            yield CountedStep(int(str(ranks)), int(nodes[ranks]), *_units(seeds, spread))


def _parts(steps: Numbers) -> Numbers:
    """Return compute, visible exchange and stragglers of steps; a rank waits first for the slowest rank."""
    seconds, busy, slowest = steps.T
    return np.stack([busy, seconds - slowest, slowest - busy], axis=1)


def _units(trainings: Sequence[Numbers], spread: Spread) -> tuple[Numbers, str, float]:
    if len(trainings) > 1:
        return np.array([steps.mean(axis=0) for steps in trainings]), f"{len(trainings)} seeds", 0.0
    (steps,) = trainings
    count = max(1, block_count(len(steps)))
    units = np.stack([part.mean(axis=0) for part in np.array_split(steps, count)])
    over = f"{count} blocks of steps of one seed"
    return units, over + ", with the spread of other rank counts' seeds" * bool(spread.freedom), spread.variance**0.5


def _obstacle(measured: Sequence[CountedStep], disturbed: int) -> str:
    """Say why nothing can be forecast; empty if it can."""
    left_out = f" (left out as disturbed: {disturbed})" if disturbed else ""
    if len(measured) < LEAST_COUNTS:
        return f"{len(measured)} of {LEAST_COUNTS} rank counts that are needed have warm steps{left_out}"
    first, shortest = measured[0], min(measured, key=CountedStep.seconds)
    if shortest.seconds() < (1 - WITHOUT_INTERVAL) * first.seconds():
        return (f"steps on {shortest.ranks} ranks were shorter than on {first.ranks}, so the latter were disturbed or "
                f"on a slower machine{left_out}")  # fmt: skip
    if max(step.nodes for step in measured) < LEAST_NODES:
        return f"all trainings ran on one node: nothing tells what a network between nodes costs{left_out}"
    return ""


def _draws(measured: Sequence[CountedStep], size: float) -> Iterator[StepModel]:
    """Refit the model to drawn steps, with each variant in turn and drawn links; nothing where no step was repeated.

    All steps of a draw are drawn by one multivariate t, so that an efficiency has Student's distribution.
    """
    generator = np.random.default_rng(_SEED)
    if not all(len(step.deviations) for step in measured):
        return
    freedom = _freedom(measured, size)
    for number in range(_DRAWS):
        scale = np.sqrt(freedom / generator.chisquare(freedom))
        steps = [step.moved(scale * generator.standard_normal(len(step.deviations))) for step in measured]
        latency, a_byte = LINK_FACTOR ** generator.uniform(-1, 1, 2)
        link = Link(ASSUMED.latency * latency, ASSUMED.a_byte * a_byte)
        yield fit(steps, size, VARIANTS[number % len(VARIANTS)], link)


def _freedom(measured: Sequence[CountedStep], size: float) -> float:
    """Return Satterthwaite's degrees of freedom of the efficiency that is fitted at the largest measured count."""
    variances, freedoms = np.array(list(_terms(measured, size))).T
    total = variances.sum()
    return float(total**2 / (variances**2 / freedoms).sum()) if total > 0 else float(freedoms.min())


def _terms(measured: Sequence[CountedStep], size: float) -> Iterator[tuple[float, int]]:
    """Yield the variance that comes from each rank count, with its freedom.

    Where one has the spread of the others' seeds, all that is between seeds is one term.
    """
    squares = [_squares(measured, step, size) for step in measured]
    freedoms = [len(step.parts) - 1 for step in measured]
    borrows = [step.spread_sd > 0 for step in measured]
    if not any(borrows):
        yield from zip((rows.sum() for rows in squares), freedoms, strict=True)
        return
    between = sum(rows[-1] if is_single else rows.sum() for rows, is_single in zip(squares, borrows, strict=True))
    yield between, sum(freedom for freedom, is_single in zip(freedoms, borrows, strict=True) if not is_single)
    for rows, freedom, is_single in zip(squares, freedoms, borrows, strict=True):
        if is_single and freedom:
            yield rows[:-1].sum(), freedom


def _squares(measured: Sequence[CountedStep], step: CountedStep, size: float) -> Numbers:
    """Return the variance of the logarithm of that efficiency by each deviation of one rank count, by its slopes."""
    slopes = [
        _log_efficiency([x.moved(unit) if x is step else x.mean() for x in measured], size)
        - _log_efficiency([x.mean() for x in measured], size)
        for unit in np.eye(len(step.deviations))
    ]
    return np.square(slopes)


def _log_efficiency(steps: Sequence[MeasuredStep], size: float) -> float:
    return float(np.log(fit(steps, size).efficiency(steps[-1].ranks, baseline=steps[0].ranks)))


def _interval_over(measured: Sequence[CountedStep], *, has_interval: bool) -> str:
    if not has_interval:
        return "nothing: a rank count has too few warm steps"
    units = "; ".join(dict.fromkeys(step.over for step in measured))
    return f"{units}; ring or tree, normal or exponential delays; assumed links within a factor of {LINK_FACTOR:g}"


def _forecast(
    model: StepModel, drawn: Sequence[StepModel], ranks: int, samples: float, measured: Sequence[CountedStep]
) -> dict[str, object]:
    baseline, largest = measured[0].ranks, measured[-1].ranks
    parts, efficiency = model.parts(ranks, samples), model.efficiency(ranks, samples, baseline)
    low, high = _interval([draw.efficiency(ranks, samples, baseline) for draw in drawn])
    limit = "data" if parts["data"] else max((name for name in parts if name != "compute"), key=parts.__getitem__)
    share = ranks / baseline
    return {
        "ranks": ranks, "kind": _kind(ranks, largest), "step_seconds": sum(parts.values()),
        "speed_up": share * efficiency, "speed_up_low": share * low, "speed_up_high": share * high,
        "efficiency": efficiency, "efficiency_low": low, "efficiency_high": high, "limit": limit,
        "ends": efficiency < END,
    }  # fmt: skip


def _interval(draws: Sequence[float]) -> tuple[float, float]:
    if not draws or np.ptp(draws) == 0:
        return NOTHING
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _kind(ranks: int, largest: int) -> str:
    if ranks <= largest:
        return "measured range"
    return "forecast" if ranks <= FURTHEST * largest else "scenario"
