"""Finished trainings of a study, and the settings by which they are compared."""

import pandas as pd

CONDITIONS = {"precision": "{}", "device": "{}", "torch": "torch {}", "version": "version {}", "data": "data {:.8}"}
"""Columns that say on what and with what a cell was trained, with their form in labels: times are compared only where
these are equal."""

SERIES_SETTINGS = ["network", "slices", "sampling", "transfer", "epochs", "work", *CONDITIONS]
"""Columns of ``cells.csv`` whose values a curve against ranks shares: what a study varies besides ranks and seed, and
the conditions, in which its trainings may differ too."""

COMPARABLE = ["slices", "alike"]
"""Columns that trainings share which differ in ranks and seed alone; ``alike`` is a digest of all other settings."""


def finished_in_grid(cells: pd.DataFrame, *, with_controls: bool = False) -> pd.DataFrame:
    """Select the study's finished trainings from ``cells.csv``; control arms, short and for times, if asked."""
    finished = cells[(cells["state"] == "done") & cells["in_grid"]]
    return finished if with_controls else finished[finished["arm"] == "full"]
