"""Whether a training's times are those of an undisturbed machine, by what was measured beside its steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.training.load_limits import MOST_FOREIGN, MOST_FOREIGN_OF_NODE, MOST_THROTTLED

YES, NO, NOT_MEASURED = "yes", "no", "not measured"


@dataclass(frozen=True)
class Limit:
    """The largest value of a measure that counts as undisturbed; ``reason``: of a value above it."""

    measure: str
    largest: float
    reason: str


LIMITS = (
    Limit("foreign_share", MOST_FOREIGN, "other processes took {:.0%} of the cores that its ranks may use"),
    Limit("foreign_node_share", MOST_FOREIGN_OF_NODE, "other processes took {:.0%} of its node's cores"),
    Limit("gpu_throttled_share", MOST_THROTTLED, "its GPU was throttled in {:.0%} of the samples"),
)

MEASURES = ("cpu_share", "switches_a_second", "foreign_share", "foreign_node_share", "average_start", "average_end",
            "jobs_start", "jobs_end", "gpu_mhz", "gpu_throttled_share")  # fmt: skip
"""What a training's result may hold of its load, by :mod:`pipeline.training.node_load`."""


def judge_load(load: Mapping[str, float | None] | None) -> tuple[str, str]:
    """Judge a training by the ``load`` of its result: whether it was disturbed, and by what.

    Older results have no load. A training whose other processes could not be counted is not measured, unless something
    else that was measured disturbed it.
    """
    load = load or {}
    reasons = [limit.reason.format(value) for limit in LIMITS
               if (value := load.get(limit.measure)) is not None and value > limit.largest]  # fmt: skip
    if not reasons:
        return NOT_MEASURED if load.get("foreign_share") is None else NO, ""
    jobs = max(load.get("jobs_start") or 0, load.get("jobs_end") or 0)
    return YES, "; ".join([*reasons, *([f"{jobs:.0f} other jobs were on its nodes"] if jobs else [])])


def not_measured(cells: pd.DataFrame) -> str:
    """Say of which trainings nobody knows whether they were disturbed; empty if of all it was measured."""
    names = cells.loc[cells["disturbed"] == NOT_MEASURED, "cell"]
    which = "all that are used" if 1 < len(names) == len(cells) else " ".join(names)
    return f"load not measured: {which}" if which else ""
