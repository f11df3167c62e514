"""How far a study's trainings would scale: a model of a step, fitted to measured points.

    step(n) = compute + contention + exchange(n) + stragglers(n), on N nodes of g ranks, n = N g
    exchange(n) = ring(g, link within a node) + ring(N, link between nodes)
    ring(n) = 2 (n - 1) latency + 2 (n - 1) / n * bytes / bandwidth       (Thakur, Rabenseifner & Gropp 2005)
    stragglers(n) = sd * E[largest of n standard normals]

    unhidden exchange = max(0, exchange - hidden), where the backward pass hides as much on any number of ranks

``compute`` is of the fewest ranks, ``contention`` what those of a full node take from one another. Both hold
the wait for data, which is taken not to grow: a file system's limit is the caller's to give.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.optimize import minimize_scalar, nnls
from scipy.stats import norm

from pipeline.scaling.bootstrap import Numbers, interval

RANKS = tuple(2**power for power in range(3, 13))
"""8 to 4,096."""
GRADIENT_BYTES = 4
END = 0.5
_SERIES = ["slices", "alike"]
_COMMON = ["slices", "sampling", "transfer", "epochs"]
_DRAWS, _SEED, _GRID = 100, 2026, 60


@dataclass(frozen=True)
class Link:
    """Seconds of latency, and seconds a byte, of a link that a ring goes over."""

    latency: float
    a_byte: float

    def ring(self, ranks: int, size: float) -> float:
        """Seconds of an all-reduce of ``size`` bytes over a ring."""
        return 2 * (ranks - 1) * self.latency + 2 * (ranks - 1) / ranks * size * self.a_byte


ASSUMED = Link(5e-6, 1 / 25e9)
"""Where no measurement tells: 5 us and 200 Gbit/s, as of HDR InfiniBand."""


@dataclass(frozen=True)
class Point:
    """Mean seconds of a step at so many ranks and nodes, by what they are for."""

    ranks: int
    nodes: int
    compute: float
    exchange: float
    stragglers: float


@dataclass(frozen=True)
class StepModel:
    """A fitted step; ``size``: bytes of the gradients; ``data_rate``: samples/s that can be read at all, if limited."""

    compute: float
    contention: float
    straggler_sd: float
    within: Link
    between: Link
    hidden: float
    size: float
    a_node: int
    assumed: tuple[str, ...] = ()
    data_rate: float = np.inf

    def parts(self, ranks: int, samples: float = 1.0) -> dict[str, float]:
        """Seconds of a step by part; ``samples``: of a rank and step."""
        nodes = max(1, ranks // self.a_node)
        latency = self.between.ring(nodes, 0.0)
        exchange = {
            "exchange within nodes": self.within.ring(min(ranks, self.a_node), self.size),
            "exchange latency": latency,
            "exchange bandwidth": self.between.ring(nodes, self.size) - latency,
        }
        whole = sum(exchange.values())
        seen = max(0.0, whole - self.hidden) / whole if whole else 0.0
        return {
            "compute": self.compute,
            "contention": self.contention if ranks >= self.a_node else 0.0,
            **{name: seconds * seen for name, seconds in exchange.items()},
            "stragglers": self.straggler_sd * expected_largest(ranks),
            "data": max(0.0, ranks * samples / self.data_rate - self.compute),
        }

    def efficiency(self, ranks: int, samples: float = 1.0) -> float:
        """Of a rank, against one alone."""
        return self.compute / sum(self.parts(ranks, samples).values())


@cache
def expected_largest(ranks: int) -> float:
    """The expectation of the largest of so many standard normal numbers."""
    return float(quad(lambda x: x * ranks * norm.pdf(x) * norm.cdf(x) ** (ranks - 1), -10, 10, limit=200)[0])


def fit(points: Sequence[Point], size: float) -> StepModel:
    """The model nearest to the points, by least squares with terms that are not negative.

    What they cannot tell is assumed, and said: of a link over which rings of one size alone went, its latency is
    that of :data:`ASSUMED`; where none went it is that link; and nothing is hidden where too few points would tell.
    """
    a_node = max(point.ranks // point.nodes for point in points)
    rings = {"within": [point.ranks // point.nodes for point in points], "between": [point.nodes for point in points]}
    sizes = {name: len({ring for ring in of if ring > 1}) for name, of in rings.items()}
    free = [(name, term) for name, count in sizes.items() for term in (0, 1) if count > 1 - term]
    several = sum(point.ranks > 1 for point in points)
    links, hidden = _links(points, rings, free, size, hides=several > len(free))
    largest = np.array([expected_largest(point.ranks) for point in points])
    late = np.array([point.stragglers for point in points])
    sd = float(late @ largest / (largest @ largest)) if largest.any() else 0.0
    fewest = min(points, key=lambda point: point.ranks)
    full = [point.compute for point in points if point.ranks // point.nodes == a_node]
    return StepModel(
        fewest.compute, float(np.mean(full)) - fewest.compute, sd, links["within"], links["between"], hidden, size,
        a_node, tuple(_assumptions(sizes, hides=several > len(free))),
    )  # fmt: skip


def _assumptions(sizes: Mapping[str, int], *, hides: bool) -> Iterator[str]:
    for name, count in sizes.items():
        where = f"{name} nodes" if name == "between" else "within a node"
        if count == 0:
            yield f"link {where}: {1e6 * ASSUMED.latency:g} us, {1e-9 / ASSUMED.a_byte:g} GB/s"
        elif count == 1:
            yield f"latency {where}: {1e6 * ASSUMED.latency:g} us"
    if not hides:
        yield "no exchange is hidden"


def _links(
    points: Sequence[Point], rings: Mapping[str, Sequence[int]], free: Sequence[tuple[str, int]], size: float,
    *, hides: bool,
) -> tuple[dict[str, Link], float]:  # fmt: skip
    """The links and what is hidden of them, at the least squared error of the exchange that is seen."""
    seen = np.array([point.exchange for point in points])
    shapes = {name: np.array([_ring(ring, size) for ring in of]) for name, of in rings.items()}
    fixed = sum(
        shapes[name][:, term] * (ASSUMED.latency, ASSUMED.a_byte)[term]
        for name in shapes for term in (0, 1) if (name, term) not in free
    )  # fmt: skip
    terms = np.stack([shapes[name][:, term] for name, term in free], axis=1) if free else np.zeros((len(points), 0))
    scale = np.where(terms.any(axis=0), np.abs(terms).max(axis=0), 1.0)

    def solve(hidden: float) -> tuple[float, Numbers]:
        known = seen > 0
        target = seen[known] + hidden - np.broadcast_to(fixed, seen.shape)[known]
        found = nnls(terms[known] / scale, target)[0] / scale if free and known.any() else np.zeros(len(free))
        error = np.maximum(0, terms @ found + fixed - hidden * (terms.any(axis=1))) - seen
        return float(error @ error), found

    most = max(point.compute for point in points)
    hidden = min(np.linspace(0, most, _GRID) ** 2 / most, key=lambda one: solve(one)[0]) if hides else 0.0
    if hides:
        step = most / _GRID
        near = minimize_scalar(
            lambda one: solve(one)[0], bounds=(max(0, hidden - step), hidden + step), method="bounded"
        )
        hidden = float(near.x) if near.fun < solve(hidden)[0] else float(hidden)
    values = dict(zip(free, solve(hidden)[1], strict=True))
    return {
        name: Link(values.get((name, 0), ASSUMED.latency), values.get((name, 1), ASSUMED.a_byte)) for name in shapes
    }, float(hidden)


def _ring(ranks: int, size: float) -> tuple[float, float]:
    return 2 * (ranks - 1), 2 * (ranks - 1) / ranks * size


def projection(cells: pd.DataFrame, steps: pd.DataFrame, data_rate: float = np.inf) -> pd.DataFrame:
    """A row a series and rank count from 8 to 4,096: the efficiency that its fitted model forecasts.

    Args:
        cells: ``cell, state, dims, arm, alike, slices, sampling, transfer, ranks, nodes, parameters, batch,
            accumulation``.
        steps: ``cell, seconds, own_seconds, slowest_seconds, warm``.
        data_rate: samples a second that the file system gives all ranks together.

    Returns:
        ``law, slices, sampling, transfer, epochs, ranks, step_seconds, speed_up, efficiency`` with ``_low`` and
        ``_high`` of both, the bootstrap's 95 % over steps, and ``limit, ends, fitted, assumed``: ``limit`` is the part
        that costs most; ``ends``, whether efficiency is below a half; ``fitted``, the rank counts; ``assumed``, what no
        measurement tells. A series of one rank count alone has no row.
    """
    done = cells[(cells["state"] == "done") & (cells["dims"] == 3) & (cells["arm"] == "full")]
    warm = {str(cell): group for cell, group in steps[steps["warm"]].groupby("cell")}
    rows = [row for _, group in done.groupby(_SERIES, sort=False) for row in _series(group, warm, data_rate)]
    columns = ["law", *_COMMON, "ranks", "step_seconds", "speed_up", "speed_up_low", "speed_up_high", "efficiency",
               "efficiency_low", "efficiency_high", "limit", "ends", "fitted", "assumed"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _series(group: pd.DataFrame, warm: dict[str, pd.DataFrame], data_rate: float) -> Iterator[dict[str, object]]:
    taken = {
        (int(str(ranks)), int(some["nodes"].max())): pd.concat([warm[cell] for cell in some["cell"] if cell in warm])
        for ranks, some in group.groupby("ranks")
        if any(cell in warm for cell in some["cell"])
    }
    if len(taken) < 2:
        return
    first, generator = group.iloc[0], np.random.default_rng(_SEED)
    size, samples = float(first["parameters"]) * GRADIENT_BYTES, float(first["batch"] * first["accumulation"])
    models = [_model(taken, size, data_rate, generator if draw else None) for draw in range(_DRAWS + 1)]
    common = {"law": "step model", **{name: first[name] for name in _COMMON}}
    fitted = " ".join(str(ranks) for ranks, _ in taken)
    assumed = "; ".join(models[0].assumed)
    for ranks in RANKS:
        parts = models[0].parts(ranks, samples)
        low, high = interval(np.array([model.efficiency(ranks, samples) for model in models[1:]]))
        value = models[0].efficiency(ranks, samples)
        limit = max((name for name in parts if name != "compute"), key=lambda name: parts[name])
        yield {
            **common, "ranks": ranks, "step_seconds": sum(parts.values()), "speed_up": ranks * value,
            "speed_up_low": ranks * low, "speed_up_high": ranks * high, "efficiency": value, "efficiency_low": low,
            "efficiency_high": high, "limit": limit, "ends": value < END, "fitted": fitted, "assumed": assumed,
        }  # fmt: skip


def _model(
    taken: dict[tuple[int, int], pd.DataFrame], size: float, data_rate: float, generator: np.random.Generator | None
) -> StepModel:
    points = []
    for (ranks, nodes), table in taken.items():
        whole, own, slowest = (table[name].to_numpy(float) for name in ("seconds", "own_seconds", "slowest_seconds"))
        if generator:
            places = generator.integers(len(table), size=len(table))
            whole, own, slowest = whole[places], own[places], slowest[places]
        points.append(_point(ranks, nodes, whole, own, slowest))
    return replace(fit(points, size), data_rate=data_rate)


def _point(ranks: int, nodes: int, whole: Numbers, own: Numbers, slowest: Numbers) -> Point:
    """Who waits in the exchange waits first for the slowest rank."""
    late = float((slowest - own).mean())
    return Point(ranks, nodes, float(own.mean()), max(0.0, float((whole - own).mean()) - late), late)
