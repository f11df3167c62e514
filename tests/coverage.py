"""How often intervals hold the truth: ``make coverage`` simulates studies and prints the table of docs/study.md.

Steps of a training are correlated (AR(1) 0.65, as was measured), its clock drifts by a straight line, seeds differ, and
two of eight nodes are slow, of which a training takes some by chance. All studies of a design stand in one table, as
series that are not alike.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from pipeline.scaling.analysis import speed_up
from pipeline.scaling.attribution import attribution
from pipeline.scaling.laws import AMDAHL, USL, karp_flatt, laws
from pipeline.scaling.projection import projection
from pipeline.scaling.step_model import Link, StepModel
from pipeline.scaling.variance import trend
from tests.pipeline.study_cells import SERIES

Numbers = NDArray[np.float64]
CORRELATION, STEP_SD, SEED_SD, DRIFT_SD = 0.65, 0.05, 0.01, 0.02
NODES, SLOW_NODES, SLOW, A_NODE = 8, 2, 1.04, 4
COLD = 10


@dataclass(frozen=True)
class Design:
    """Rank counts, seeds of each, epochs of each training and steps of each epoch.

    ``is_disturbed``: of the fewest ranks all seeds but the first are left out.
    """

    ranks: tuple[int, ...]
    seeds: int
    epochs: int = 2
    steps: int = 100
    is_disturbed: bool = False

    def __str__(self) -> str:
        seeds = _counted(self.seeds, "seed") + ", 1 of the baseline" * self.is_disturbed
        return f"{len(self.ranks)} rank counts, {seeds}, {_counted(self.epochs, 'epoch')} of {self.steps} steps"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' if number > 1 else ''}"


class Coverage(NamedTuple):
    """Share of the studies whose interval holds the truth, and the interval's median width over the truth."""

    interval: str
    design: str
    share: float
    width: float


def levels(design: Design, studies: int, generator: np.random.Generator) -> Numbers:
    """Relative seconds of trainings, of mean 1 over seeds and nodes: (studies, rank counts, seeds)."""
    shape = (studies, design.seeds)
    columns = []
    for ranks in design.ranks:
        nodes = nodes_of(ranks)
        share = 1 - comb(NODES - SLOW_NODES, nodes) / comb(NODES, nodes)
        slow = np.where(generator.random(shape) < share, SLOW, 1.0) / (1 + share * (SLOW - 1))
        columns.append(slow * (1 + SEED_SD * generator.standard_normal(shape)))
    return np.stack(columns, axis=1)


def nodes_of(ranks: int) -> int:
    return max(1, ranks // A_NODE)


def steps_about(levels: Numbers, steps: int, generator: np.random.Generator) -> Numbers:
    """Steps of trainings with these levels: correlated, about a line of a slope by chance."""
    noise = lfilter(
        [np.sqrt(1 - CORRELATION**2)], [1, -CORRELATION], generator.standard_normal((*levels.shape, steps + 50))
    )
    drift = DRIFT_SD * generator.standard_normal((*levels.shape, 1)) * np.linspace(-1, 1, steps)
    times: Numbers = levels[..., None] * (1 + drift) * (1 + STEP_SD * noise[..., 50:])
    return times


def cells_of(design: Design, studies: int, **constants: object) -> pd.DataFrame:
    """Rows of ``cells.csv`` in the order of an array (studies, rank counts, seeds)."""
    index = pd.MultiIndex.from_product(
        [range(studies), design.ranks, range(design.seeds)], names=["study", "ranks", "seed"]
    )
    table = index.to_frame(index=False)
    name = table["study"].astype(str)
    identity = {
        "cell": name + "-" + table["ranks"].astype(str) + "-" + table["seed"].astype(str),
        "alike": name,
        "data": name,
    }
    columns: dict[str, Any] = {
        **SERIES,
        **identity,
        "state": "done",
        "network": "3d",
        "in_grid": True,
        "slices": 16,
        "samples": 1,
        **constants,
    }
    columns["left_out"] = design.is_disturbed & (table["ranks"] == design.ranks[0]) & (table["seed"] > 0)
    return table.assign(**columns, training_seconds=np.nan, nodes=[nodes_of(ranks) for ranks in table["ranks"]])


def epochs_of(cells: pd.DataFrame, design: Design, seconds: Numbers) -> pd.DataFrame:
    """Sum steps (studies, rank counts, seeds, steps) by epoch."""
    sums = seconds.reshape(len(cells), design.epochs, design.steps).sum(axis=2)
    return pd.DataFrame({"cell": cells["cell"].repeat(design.epochs), "seconds": sums.ravel(), "samples": design.steps})


def study(
    design: Design, times: Numbers, studies: int, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, Numbers]:
    """Tables of trainings and epochs with these mean times at the rank counts, and the trainings' levels."""
    level = levels(design, studies, generator)
    seconds = steps_about(level, design.epochs * design.steps, generator) * times[:, None, None]
    cells = cells_of(design, studies)
    return cells, epochs_of(cells, design, seconds), level


def held(low: "pd.Series[float]", high: "pd.Series[float]", truth: Numbers | float) -> tuple[float, float]:
    """Share of the intervals that hold the truth, and their median width over it; NaN holds nothing."""
    return float(((low <= truth) & (truth <= high)).mean()), float(np.median((high - low) / np.abs(truth)))


def of_speed_up(design: Design, studies: int, generator: np.random.Generator) -> Iterator[Coverage]:
    """Against the expected times; of one seed against those of its own trainings, as nothing else is claimed."""
    times = AMDAHL.terms(np.array(design.ranks, float)) @ np.array([0.1, 0.9])
    cells, epochs, level = study(design, times, studies, generator)
    last = speed_up(cells, epochs).query(f"ranks == {design.ranks[-1]}").reset_index()
    truth = times[0] / times[-1] * (1.0 if design.seeds > 1 else level[:, 0, 0] / level[:, -1, 0])
    yield Coverage("speed-up, efficiency", str(design), *held(last["speed_up_low"], last["speed_up_high"], truth))


def of_laws(design: Design, studies: int, generator: np.random.Generator) -> Iterator[Coverage]:
    ranks = np.array(design.ranks, float)
    for law, factors in ((AMDAHL, np.array([0.05, 0.95])), (USL, np.array([1, 0.05, 0.002]))):
        times = law.terms(ranks) @ factors
        cells, epochs, _ = study(design, times, studies, generator)
        table = laws(cells, epochs)
        if law is AMDAHL:
            rows, truth = table.query(f"law == 'Karp-Flatt' and ranks == '{design.ranks[-1]}'"), times[0] / times[-1]
            yield Coverage("Karp-Flatt", str(design), *held(rows["low"], rows["high"], karp_flatt(truth, ranks[-1])))
        for parameter, value in law.parameters(factors).items():
            rows = table.query(f"law == '{law.name}' and parameter == '{parameter}'")
            yield Coverage(
                f"{law.name}: {parameter.replace('_', ' ')}", str(design), *held(rows["low"], rows["high"], value)
            )


ARMS = {
    "full": (1.55, 1.65, 0.05),
    "synthetic": (1.45, 1.55, 0.0),
    "silent": (1.25, 1.35, 0.05),
    "alone": (1.05, 1.05, 0.05),
}
"""Seconds of a step, of the slowest rank's, and of the wait for data."""
LOST = {"data": 0.1, "exchange": 0.2, "stragglers": 0.1, "contention": 0.15}


def of_attribution(design: Design, studies: int, generator: np.random.Generator) -> Iterator[Coverage]:
    """Arms of one training of 100 steps beside the trainings of each seed at the same rank count."""
    parts = []
    for arm, (seconds, slowest, data) in ARMS.items():
        trainings = design if arm == "full" else Design(design.ranks[:1] if arm != "alone" else (1,), 1, 1, 100)
        level = (
            levels(trainings, studies, generator) if design.seeds > 1 else np.ones((studies, len(trainings.ranks), 1))
        )
        relative = steps_about(level, trainings.epochs * trainings.steps, generator).reshape(-1)
        cells = cells_of(trainings, studies, arm=arm, steps=100, start_seconds=0.0)
        cells["cell"] = arm + cells["cell"]
        names = cells["cell"].repeat(trainings.epochs * trainings.steps)
        late = np.where(np.arange(len(names)) % 2, 0.5, 1.5) * (
            slowest - seconds
        )  # one step late, the next one less so
        parts.append((cells, pd.DataFrame({
            "cell": names.to_numpy(), "seconds": relative * seconds, "own_seconds": relative * seconds,
            "slowest_seconds": relative * (seconds + late), "data_seconds": relative * data,
            "warm": np.tile(np.arange(trainings.epochs * trainings.steps) >= COLD, len(cells)),
        })))  # fmt: skip
    cells, steps = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    table = attribution(cells, steps)
    for cause, seconds in LOST.items():
        rows = table[(table["cause"] == cause) & (table["ranks"] == design.ranks[0])]
        yield Coverage(
            f"attribution: {cause}", str(design), *held(rows["lost_low"], rows["lost_high"], seconds / ARMS["full"][0])
        )


STEP = StepModel(0.8, 0.02, 0.01, Link(20e-6, 1 / 50e9), Link(2e-3, 1 / 1e9), 0.0, 10.5e6, A_NODE)


def of_projection(design: Design, studies: int, generator: np.random.Generator) -> Iterator[Coverage]:
    """At the second largest measured count; of one seed as its own trainings are."""
    shape = (studies, len(design.ranks), design.seeds)
    level = levels(design, studies, generator) if design.seeds > 1 else np.ones(shape)
    steps = []
    cells = cells_of(design, studies, parameters=STEP.size / 4)
    for number, ranks in enumerate(design.ranks):
        parts, noise = STEP.parts(ranks), generator.standard_normal((2, studies, design.seeds, design.steps))
        busy = (parts["compute"] + parts["contention"]) * steps_about(level[:, number], design.steps, generator)
        late = parts["stragglers"] * (1 + 0.3 * noise[0])
        visible = sum(seconds for name, seconds in parts.items() if name.startswith("exchange"))
        exchange = visible * (1 + 0.1 * noise[1])
        names = cells.loc[cells["ranks"] == ranks, "cell"].repeat(design.steps)
        steps.append(pd.DataFrame({
            "cell": names.to_numpy(), "seconds": (busy + late + exchange).ravel(), "own_seconds": busy.ravel(),
            "slowest_seconds": (busy + late).ravel(), "warm": True,
        }))  # fmt: skip
    rows = projection(cells, pd.concat(steps, ignore_index=True)).query(f"ranks == {design.ranks[-2]}")
    truth = STEP.efficiency(design.ranks[-2])
    yield Coverage(
        "projection, within the measured range",
        str(design),
        *held(rows["efficiency_low"], rows["efficiency_high"], truth),
    )


def of_variance(design: Design, studies: int, generator: np.random.Generator) -> Iterator[Coverage]:
    """Share of studies without any effect whose test says so at 5 %; scans are as hard on any number of ranks."""
    shape = (studies, len(design.ranks), design.seeds)
    values = generator.standard_normal((studies, 1, design.seeds)) + 0.5 * generator.standard_normal(shape)
    ranks = np.array(design.ranks)
    share = float(np.mean([trend(study, ranks)[1] > 0.05 for study in values]))
    yield Coverage("variance: test at 5 %", f"{len(ranks)} rank counts, {design.seeds} scans or seeds", share, np.nan)


FEW, NODEWISE = (1, 2, 4, 8), (1, 4, 8, 16)
Simulation = Callable[[Design, int, np.random.Generator], Iterator[Coverage]]
SIMULATIONS: tuple[tuple[Simulation, Design], ...] = (
    *((of_speed_up, Design((1, 8), seeds)) for seeds in (2, 3, 5, 10)),
    *((of_speed_up, Design((1, 8), 1, epochs)) for epochs in (2, 10)),
    *((of_laws, Design(FEW, seeds)) for seeds in (2, 3, 5)),
    *((of_attribution, Design((4, 8, 16), seeds)) for seeds in (1, 3, 5)),
    *((of_projection, Design(NODEWISE, seeds, 1)) for seeds in (1, 3, 5)),
    *((of_variance, Design((1, 2, 4), units)) for units in (5, 6, 12, 30)),
    *((of_attribution, Design(ranks, 2)) for ranks in ((4, 8), (4, 8, 16))),
    *((of_speed_up, Design(ranks, 3, is_disturbed=True)) for ranks in ((1, 8), FEW)),
    (of_laws, Design(FEW, 3, is_disturbed=True)),
    (of_projection, Design(NODEWISE, 3, 1, is_disturbed=True)),
)


def simulate(studies: int) -> Iterator[Coverage]:
    for number, (simulation, design) in enumerate(SIMULATIONS):
        yield from simulation(design, studies, np.random.default_rng(number))


if __name__ == "__main__":
    print("| interval | design | holds the truth | median width |\n| --- | --- | --: | --: |")
    for row in simulate(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
        width = "" if np.isnan(row.width) else f"{100 * row.width:.1f} %"
        print(f"| {row.interval} | {row.design} | {100 * row.share:.1f} % | {width} |", flush=True)
