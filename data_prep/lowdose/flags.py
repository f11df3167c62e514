"""Which scans' noise a person should look at, by their rows in the manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

RATIO_RANGE = (0.9, 1.1)
"""Of added over expected noise; outside, the scan is flagged."""


def is_odd(ratio: float | None) -> bool:
    """Whether the added noise, over the expected, is not what the dose must add; not where the ratio is unknown."""
    return ratio is not None and (ratio < RATIO_RANGE[0] or ratio > RATIO_RANGE[1])


def is_unmeasured(row: Mapping[str, Any]) -> bool:
    """Whether the noise of the full dose, or what was added to it, could not be measured."""
    return any(row[name] is None or math.isnan(row[name]) for name in ("noise_full_hu", "noise_added_hu"))


def is_flagged(row: Mapping[str, Any]) -> bool:
    """Whether a person should look at the scan's noise."""
    return is_unmeasured(row) or is_odd(row["noise_ratio"])


def describe_flags(manifest: pd.DataFrame) -> str:
    """Say how many of the kept scans are flagged, and why; nothing if none is.

    A scan with a row for each of several low doses is flagged if one of them is.
    """
    if "noise_ratio" not in manifest:  # no scan was prepared, or by an earlier version
        return ""
    rows: list[Any] = manifest[manifest["state"] == "kept"].to_dict("records")
    odd, unmeasured = _scans(row for row in rows if is_odd(row["noise_ratio"])), _scans(filter(is_unmeasured, rows))
    flagged = _scans(filter(is_flagged, rows))
    low, high = RATIO_RANGE
    parts = {
        f"the noise added to {odd} is below {low} or above {high} of what the dose must add": odd,
        f"the own or the added noise of {unmeasured} could not be measured": unmeasured,
    }
    if not flagged:
        return ""
    return (
        f"noise to look at in {flagged} of {_scans(rows)} scans: "
        f"{'; '.join(part for part, count in parts.items() if count)}"
    )


def _scans(rows: Iterable[Mapping[str, Any]]) -> int:
    """Count the scans that rows are of."""
    return len({(row["dataset"], row["scan"]) for row in rows})
