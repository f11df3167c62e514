"""A model of the seconds of a training step on any number of ranks, and its fit to measured steps.

    step(n) = max(compute + contention + exchange(n) + stragglers(n), reading(n)), on N nodes of g ranks, n = N g
    exchange(n) = all-reduce(g, link within a node) + all-reduce(N, link between nodes)
    ring(n) = 2 (n - 1) latency + 2 (n - 1) / n * bytes / bandwidth       (Thakur, Rabenseifner & Gropp 2005)
    tree(n) = 2 log2(n) latency + 2 bytes / bandwidth                     (Sanders, Speck & Traeff 2009)
    stragglers(n) = sd * E[largest of n standard normals], or of n exponential delays, 1/2 + ... + 1/n
    reading(n) = samples of n ranks / samples a second of the file system, read ahead during all of the step before

Which all-reduce and which delays, few measured rank counts cannot tell: a forecast is refitted with each of them.

    visible exchange = max(0, exchange - hidden), where the backward pass hides as much on any number of ranks

Ranks that do not fill their nodes are shared by them alike, as jobs are submitted. ``compute`` is that of the fewest
ranks, ``contention`` what the ranks of a full node add to it. Both include the wait for data, which is assumed not to
grow: the caller gives a file system's limit as ``data_rate``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, exp, pi, sqrt
from typing import Literal

import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize_scalar, nnls
from scipy.special import ndtr

from pipeline.scaling.estimates import Numbers

_GRID = 60  # values of the hidden seconds that are tried before the best is refined
LinkName = Literal["within", "between"]
Topology = Literal["ring", "tree"]
Tail = Literal["normal", "exponential"]
Variant = tuple[Topology, Tail]
RING: Variant = ("ring", "normal")
VARIANTS: tuple[Variant, ...] = (RING, ("ring", "exponential"), ("tree", "normal"), ("tree", "exponential"))
Term = tuple[LinkName, Literal[0, 1]]
"""A coefficient of a link: 0 its latency, 1 its seconds a byte."""


@dataclass(frozen=True)
class Link:
    """Seconds of latency, and seconds a byte, of a link that gradients go over."""

    latency: float
    a_byte: float

    def all_reduce(self, ranks: int, size: float, topology: Topology = "ring") -> float:
        """Return the seconds of an all-reduce of ``size`` bytes."""
        hops, sent = _all_reduce(ranks, size, topology)
        return hops * self.latency + sent * self.a_byte


ASSUMED = Link(5e-6, 1 / 25e9)
"""Link where nothing was measured: 5 us and 200 Gbit/s, as of HDR InfiniBand."""


@dataclass(frozen=True)
class MeasuredStep:
    """Mean seconds of a step at one number of ranks and nodes, by part; ``exchange`` is what is not hidden of it."""

    ranks: int
    nodes: int
    compute: float
    exchange: float
    stragglers: float


@dataclass(frozen=True)
class StepModel:
    """A fitted step.

    ``size``: bytes of the gradients; ``a_node``: ranks of a full node; ``assumed``: what was not measured, in words;
    ``data_rate``: samples a second that can be read by all ranks together, if limited.
    """

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
    variant: Variant = RING

    def parts(self, ranks: int, samples: float = 1.0) -> dict[str, float]:
        """Return the seconds of a step by part; ``samples``: how many a rank takes in a step.

        ``data``: those by which reading them takes longer than all else.
        """
        nodes = ceil(ranks / self.a_node)
        on_node = ceil(ranks / nodes)
        topology, tail = self.variant
        latency = self.between.all_reduce(nodes, 0.0, topology)
        exchange = {
            "exchange within nodes": self.within.all_reduce(on_node, self.size, topology),
            "exchange latency": latency,
            "exchange bandwidth": self.between.all_reduce(nodes, self.size, topology) - latency,
        }
        total = sum(exchange.values())
        visible = max(0.0, total - self.hidden) / total if total else 0.0
        parts = {
            "compute": self.compute,
            "contention": self.contention if on_node == self.a_node else 0.0,
            **{name: seconds * visible for name, seconds in exchange.items()},
            "stragglers": self.straggler_sd * expected_largest(ranks, tail),
        }
        return {**parts, "data": max(0.0, ranks * samples / self.data_rate - sum(parts.values()))}

    def efficiency(self, ranks: int, samples: float = 1.0, baseline: int = 1) -> float:
        """Return the time of a step on the ``baseline``'s ranks over that on so many ranks."""
        return sum(self.parts(baseline, samples).values()) / sum(self.parts(ranks, samples).values())


@cache
def expected_largest(ranks: int, tail: Tail = "normal") -> float:
    """Return the expectation of the largest of so many standard normal, or exponential, numbers less their mean."""
    if tail == "exponential":
        return float(np.sum(1 / np.arange(2, ranks + 1)))
    density = ranks / sqrt(2 * pi)
    return float(quad(lambda x: x * density * exp(-x * x / 2) * ndtr(x) ** (ranks - 1), -10, 10, limit=200)[0])


def fit(steps: Sequence[MeasuredStep], size: float, variant: Variant = RING, link: Link = ASSUMED) -> StepModel:
    """Fit the model to measured steps, by least squares with terms that are not negative.

    What the steps do not determine is assumed, and listed in ``assumed``: the latency of a link over which rings of
    only one size went, and a link that was not used, are those of ``link``; no exchange is hidden where there are too
    few steps to tell.
    """
    rings: dict[LinkName, list[int]] = {
        "within": [ceil(step.ranks / step.nodes) for step in steps], "between": [step.nodes for step in steps],
    }  # fmt: skip
    a_node = max(rings["within"])
    sizes = {link: len({ring for ring in used if ring > 1}) for link, used in rings.items()}
    free = list(_free_terms(sizes))
    hides = sum(step.ranks > 1 for step in steps) > len(free)
    shapes = {name: np.array([_all_reduce(ring, size, variant[0]) for ring in used]) for name, used in rings.items()}
    links, hidden = _fit_links(steps, shapes, free, link, hides=hides)
    fewest = min(steps, key=lambda step: step.ranks)
    full = [step.compute for step, on_node in zip(steps, rings["within"], strict=True) if on_node == a_node]
    return StepModel(
        fewest.compute, float(np.mean(full)) - fewest.compute, _straggler_sd(steps, variant[1]), links["within"],
        links["between"], hidden, size, a_node, tuple(_assumptions(sizes, hides=hides)), variant=variant,
    )  # fmt: skip


def _free_terms(sizes: Mapping[LinkName, int]) -> Iterator[Term]:
    """Yield what can be fitted: of a link with rings of several sizes both coefficients, of one size the bandwidth."""
    for link, count in sizes.items():
        if count > 1:
            yield link, 0
        if count > 0:
            yield link, 1


def _straggler_sd(steps: Sequence[MeasuredStep], tail: Tail) -> float:
    largest = np.array([expected_largest(step.ranks, tail) for step in steps])
    late = np.array([step.stragglers for step in steps])
    return float(late @ largest / (largest @ largest)) if largest.any() else 0.0


def _assumptions(sizes: Mapping[LinkName, int], *, hides: bool) -> Iterator[str]:
    wheres: dict[LinkName, str] = {"within": "within a node", "between": "between nodes"}
    for link, count in sizes.items():
        if count == 0:
            yield f"link {wheres[link]}: {1e6 * ASSUMED.latency:g} us, {1e-9 / ASSUMED.a_byte:g} GB/s"
        elif count == 1:
            yield f"latency {wheres[link]}: {1e6 * ASSUMED.latency:g} us"
    if not hides:
        yield "no exchange is hidden"


def _fit_links(
    steps: Sequence[MeasuredStep], shapes: Mapping[LinkName, Numbers], free: Sequence[Term], assumed: Link,
    *, hides: bool,
) -> tuple[dict[LinkName, Link], float]:  # fmt: skip
    """Fit the links and the hidden seconds to the visible exchange, at the least squared error.

    ``shapes``: hops and bytes of each step's all-reduce over each link, (steps, 2).
    """
    visible = np.array([step.exchange for step in steps])
    fixed = sum(
        shapes[link][:, term] * (assumed.latency, assumed.a_byte)[term]
        for link in shapes for term in (0, 1) if (link, term) not in free
    )  # fmt: skip
    terms = np.stack([shapes[link][:, term] for link, term in free], axis=1) if free else np.zeros((len(steps), 0))
    scale = np.where(terms.any(axis=0), np.abs(terms).max(axis=0), 1.0)

    def solve(hidden: float) -> tuple[float, Numbers]:
        used = visible > 0
        target = visible[used] + hidden - np.broadcast_to(fixed, visible.shape)[used]
        factors = nnls(terms[used] / scale, target)[0] / scale if free and used.any() else np.zeros(len(free))
        error = np.maximum(0, terms @ factors + fixed - hidden * (terms.any(axis=1))) - visible
        return float(error @ error), factors

    longest = max(step.compute for step in steps)
    hidden = _fit_hidden(lambda seconds: solve(seconds)[0], longest) if hides else 0.0
    fitted = dict(zip(free, solve(hidden)[1], strict=True))
    return {
        link: Link(fitted.get((link, 0), assumed.latency), fitted.get((link, 1), assumed.a_byte)) for link in shapes
    }, hidden


def _all_reduce(ranks: int, size: float, topology: Topology) -> tuple[float, float]:
    """Return how many hops an all-reduce takes one after the other, and the bytes that a rank sends."""
    if topology == "ring":
        return 2 * (ranks - 1), 2 * (ranks - 1) / ranks * size
    return 2 * np.log2(ranks), 2 * size * (ranks > 1)


def _fit_hidden(error: Callable[[float], float], longest: float) -> float:
    """Minimise the error over hidden seconds up to the ``longest``: on a grid, then about its best value."""
    best = min(np.linspace(0, longest, _GRID) ** 2 / longest, key=error)
    step = longest / _GRID
    refined = minimize_scalar(error, bounds=(max(0, best - step), best + step), method="bounded")
    return float(refined.x) if refined.fun < error(best) else float(best)
