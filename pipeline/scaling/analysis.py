"""Speed-up, efficiency and what the transfer saved, from the cells of a study."""

import pandas as pd

from pipeline.config import DDNET_2D


def speed_up(cells: pd.DataFrame) -> pd.DataFrame:
    """Time, speed-up and efficiency of each finished cell against the fewest ranks that are alike.

    ``cells`` has ``cell, state, dims, alike, slices, transfer, ranks, samples, training_seconds``; cells are
    compared only where ``alike`` (a digest of all that must not differ) is the same. T is the time of
    a sample, since whole steps may need a few more samples with more ranks. With n0 ranks in the
    baseline: speed-up = n0 * T(n0) / T(n), efficiency = speed-up / n.
    """
    done = cells[(cells["state"] == "done") & (cells["dims"] == 3)]
    rows = [_against_fewest(group.sort_values("ranks")) for _, group in done.groupby(["slices", "alike"], sort=False)]
    columns = ["cell", "slices", "transfer", "ranks", "training_seconds", "baseline", "speed_up", "efficiency"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _against_fewest(group: pd.DataFrame) -> pd.DataFrame:
    first, time = group.iloc[0], group["training_seconds"] / group["samples"]
    gained = first["ranks"] * time.iloc[0] / time
    return group.assign(baseline=first["cell"], speed_up=gained, efficiency=gained / group["ranks"])


def steps_to_2d(cells: pd.DataFrame, validations: pd.DataFrame) -> pd.DataFrame:
    """After how many steps each finished 3D cell was as good as the 2D-DDnet, and how many its transfer saved.

    Error is the validation RMSE over that of the low-dose input on the same samples; ``error_2d`` the 2D-DDnet's
    last. ``steps_to_2d``: those before the first validation at or below it; ``steps_saved``: those of the cell that
    is alike but has no transfer, less these. Both are empty where it was not reached.

    ``cells`` has ``cell, state, dims, slices, ranks, transfer, alike_but_transfer``, where the last is a digest of
    all else that must not differ; ``validations`` has ``cell, step, rmse_hu, low_dose_rmse_hu``.
    """
    done = cells[cells["state"] == "done"]
    errors = validations[validations["cell"].isin(done["cell"])].sort_values("step")
    errors["error"] = errors["rmse_hu"] / errors["low_dose_rmse_hu"]
    goal = errors.loc[errors["cell"] == DDNET_2D, "error"].iloc[-1:].max()  # NaN without one
    reached = errors[errors["error"] <= goal].groupby("cell")["step"].first()
    deep = done[done["dims"] == 3].assign(error_2d=goal)
    deep["steps_to_2d"] = deep["cell"].map(reached).astype("Int64")
    return _with_saved(deep)[["cell", "slices", "ranks", "transfer", "error_2d", "steps_to_2d", "steps_saved"]]


def _with_saved(deep: pd.DataFrame) -> pd.DataFrame:
    same = ["slices", "ranks", "alike_but_transfer"]
    plain = deep[deep["transfer"] == "none"].rename(columns={"steps_to_2d": "without"})
    both = deep.merge(plain[[*same, "without"]], how="left", on=same)
    return both.assign(steps_saved=(both["without"] - both["steps_to_2d"]).mask(both["transfer"] == "none"))
