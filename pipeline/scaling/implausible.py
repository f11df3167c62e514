"""What is likely wrong where training seems more efficient than it can be."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.scaling.disturbance import NOT_MEASURED, YES
from pipeline.scaling.series import Point

WITHOUT_INTERVAL = 0.05
"""Efficiency above 100 % that is called impossible where nothing was repeated: as much as an undisturbed training's
time may be off."""
_CLOCK_DIFFERENCE = 0.03


def explain_excess(first: Point, point: Point, efficiency: float, low: float) -> str:
    """Say what is likely wrong with an efficiency above 100 % beyond its interval; empty where it is possible."""
    bound = efficiency - WITHOUT_INTERVAL if np.isnan(low) else low
    if point is first or not bound > 1:
        return ""
    causes = list(_causes(first, point)) or ["caches that hold each rank's share, but not the whole of fewer ranks"]
    return f"above 100 % beyond its interval, which ranks cannot be; likely cause: {', or '.join(causes)}"


def _causes(first: Point, point: Point) -> Iterator[str]:
    baseline, trainings = first.trainings, point.trainings
    if (baseline["disturbed"] == YES).any():
        yield f"the baseline {first.cell} was disturbed"
    elif (baseline["disturbed"] == NOT_MEASURED).any():
        yield f"whether the baseline {first.cell} was disturbed was not measured"
    slow, fast = (_clock_rate(cells) for cells in (baseline, trainings))
    if slow < (1 - _CLOCK_DIFFERENCE) * fast:
        yield f"the baseline's GPU ran at {slow:.0f} MHz, that of {point.cell} at {fast:.0f} MHz"
    if not _nodes(baseline) & _nodes(trainings):
        yield "the baseline ran on other nodes"


def _clock_rate(cells: pd.DataFrame) -> float:
    return float(cells["gpu_mhz"].astype(float).mean()) if "gpu_mhz" in cells else np.nan


def _nodes(cells: pd.DataFrame) -> set[str]:
    """Return the names of the nodes; where they are not known all trainings have the same."""
    return {node for nodes in cells.get("node_list", pd.Series("", cells.index)) for node in str(nodes).split(" ")}
