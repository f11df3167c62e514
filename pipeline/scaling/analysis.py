"""Speed-up and efficiency from the cells of a study."""

import pandas as pd


def speed_up(cells: pd.DataFrame) -> pd.DataFrame:
    """Time, speed-up and efficiency of each finished cell against the fewest ranks that are alike.

    ``cells`` has ``cell, state, dims, alike, slices, ranks, samples, training_seconds``; cells are
    compared only where ``alike`` (a digest of all that must not differ) is the same. T is the time of
    a sample, since whole steps may need a few more samples with more ranks. With n0 ranks in the
    baseline: speed-up = n0 * T(n0) / T(n), efficiency = speed-up / n.
    """
    done = cells[(cells["state"] == "done") & (cells["dims"] == 3)]
    rows = [_against_fewest(group.sort_values("ranks")) for _, group in done.groupby(["slices", "alike"])]
    columns = ["cell", "slices", "ranks", "training_seconds", "baseline", "speed_up", "efficiency"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _against_fewest(group: pd.DataFrame) -> pd.DataFrame:
    first, time = group.iloc[0], group["training_seconds"] / group["samples"]
    gained = first["ranks"] * time.iloc[0] / time
    return group.assign(baseline=first["cell"], speed_up=gained, efficiency=gained / group["ranks"])
