"""Where the efficiency of each point went: to data, to the exchange, to stragglers, to ranks that share a machine.

A control arm takes one thing away: ``synthetic`` the reading of data, ``silent`` the exchange of gradients, ``alone``
all other ranks. With the seconds of a step T of the training, T1 of a rank alone less its own wait for data:

    T - T1 = data + exchange + stragglers + contention
    data       = T - T(synthetic)
    stragglers = mean over the steps of (slowest rank - mean of the ranks), without exchange
    exchange   = T - T(silent) - stragglers
    contention = T(silent) - data - T1

so that the parts make the whole by construction. Each may be negative by noise, and is shown so.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.scaling.bootstrap import DRAWS, Numbers, interval

CAUSES = ("data", "exchange", "stragglers", "contention")
_POINT = ["slices", "sampling"]
_SAME = [*_POINT, "batch", "accumulation", "precision", "device", "torch", "version", "data"]
_ARMS = ("full", "synthetic", "silent", "alone")
SEED = 2024


def attribution(cells: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """A row a point (slices, sampling, ranks) and cause, of those points that have control arms.

    Args:
        cells: ``cell, state, dims, arm, slices, sampling, ranks, steps, start_seconds`` and what else arms must share:
            ``batch, accumulation, precision, device, torch, version, data``.
        steps: ``cell, seconds, own_seconds, slowest_seconds, data_seconds, warm``; cold steps are left out.

    Returns:
        ``slices, sampling, ranks, step_seconds, alone_seconds, efficiency, cause, seconds, lost, lost_low, lost_high,
        missing``: ``seconds`` a step that the cause took; ``lost``: their share of a step and of the start, with the
        bootstrap's 95 % over steps; ``efficiency`` is T1 / T. ``start`` is the seconds of the training's start over
        its steps. Causes of which an arm is ``missing`` are empty.
    """
    deep = cells[(cells["state"] == "done") & (cells["dims"] == 3)]
    warm = {str(cell): group for cell, group in steps[steps["warm"]].groupby("cell")}
    rows = [row for point in _points(cells, deep, warm) for row in point]
    columns = [*_POINT, "ranks", "step_seconds", "alone_seconds", "efficiency", "cause", "seconds", "lost",
               "lost_low", "lost_high", "missing"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _points(
    cells: pd.DataFrame, deep: pd.DataFrame, warm: Mapping[str, pd.DataFrame]
) -> Iterator[Iterator[dict[str, object]]]:
    asked = set(cells.loc[cells["arm"].isin(["synthetic", "silent"]), [*_POINT, "ranks"]].itertuples(index=False))
    for (slices, sampling, ranks), same in _alike(deep, sorted(asked)):
        arms = {
            arm: [
                warm[c] for c in same.loc[(same["arm"] == arm) & _of(same, arm, int(str(ranks))), "cell"] if c in warm
            ]
            for arm in _ARMS
        }
        found = {arm: pd.concat(tables) for arm, tables in arms.items() if tables}
        if ranks == 1 and "full" in found:
            found["silent"] = found["full"]  # one rank exchanges nothing
        yield _rows({"slices": slices, "sampling": sampling, "ranks": ranks}, found, _start(same, int(str(ranks))))


def _alike(deep: pd.DataFrame, asked: Sequence[Any]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each point once for each kind of training with it; only what is alike is compared."""
    for point in asked:
        kinds = deep[(deep["slices"] == point.slices) & (deep["sampling"] == point.sampling)]
        for _, same in kinds.groupby(_SAME, dropna=False):
            if (same["ranks"] == point.ranks).any():
                yield point, same


def _of(same: pd.DataFrame, arm: str, ranks: int) -> "pd.Series[bool]":
    return same["ranks"] == (1 if arm == "alone" else ranks)


def _start(same: pd.DataFrame, ranks: int) -> float:
    full = same[(same["arm"] == "full") & (same["ranks"] == ranks)]
    return float((full["start_seconds"] / full["steps"]).mean())


def _rows(point: dict[str, object], found: Mapping[str, pd.DataFrame], start: float) -> Iterator[dict[str, object]]:
    values = split(found)
    whole, alone = (values[name][0] for name in ("step", "alone"))
    common = {**point, "step_seconds": whole, "alone_seconds": alone, "efficiency": alone / whole}
    missing = " ".join(arm for arm in _ARMS if arm not in found)
    for cause in CAUSES:
        seconds, draws = values[cause]
        low, high = interval(draws / (whole + start))
        yield {**common, "cause": cause, "seconds": seconds, "lost": seconds / (whole + start), "lost_low": low,
               "lost_high": high, "missing": missing if np.isnan(seconds) else ""}  # fmt: skip
    yield {**common, "cause": "start", "seconds": start, "lost": start / (whole + start), "missing": ""}


def split(found: Mapping[str, pd.DataFrame]) -> dict[str, tuple[float, Numbers]]:
    """Seconds of a step by cause, with draws of each, from the warm steps of the arms; NaN where an arm is missing."""
    generator = np.random.default_rng(SEED)
    full = _means(found.get("full"), ["seconds"], generator)["seconds"]
    synthetic = _means(found.get("synthetic"), ["seconds"], generator)["seconds"]
    silent = _means(found.get("silent"), ["seconds", "own_seconds", "slowest_seconds"], generator)
    alone = _means(found.get("alone"), ["seconds", "data_seconds"], generator)
    one = alone["seconds"] - alone["data_seconds"]
    data = full - synthetic
    stragglers = silent["slowest_seconds"] - silent["own_seconds"]
    parts = {
        "step": full, "alone": one, "data": data, "exchange": full - silent["seconds"] - stragglers,
        "stragglers": stragglers, "contention": silent["seconds"] - data - one,
    }  # fmt: skip
    return {name: (float(values[0]), values[1:]) for name, values in parts.items()}


def _means(table: pd.DataFrame | None, columns: list[str], generator: np.random.Generator) -> dict[str, Numbers]:
    """Of each column the mean over the steps, then those of steps drawn again, the same for all columns."""
    if table is None:
        return dict.fromkeys(columns, np.full(DRAWS + 1, np.nan))
    places = generator.integers(len(table), size=(DRAWS, len(table)))
    taken = {column: table[column].to_numpy(float) for column in columns}
    return {column: np.concatenate([[values.mean()], values[places].mean(axis=1)]) for column, values in taken.items()}
