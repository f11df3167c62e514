"""Tables of several doses: each dose by itself, and what is seen of a network at all of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.quality.measures import SCAN_MEASURES, names
from pipeline.settings.cells import CellSettings

DOSE = "dose"
"""Column with the fraction of the full dose; empty where the low dose was measured, be it of some scans alone."""
SEEN = "seen"
_OF_SCANS = names(SCAN_MEASURES)


def split_by_dose(table: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """Split rows by their dose, the lowest first; with a single simulated dose all rows stay together.

    Where the low dose of some of these was measured, they have no common dose: it is NaN, as that of measured ones.
    """
    doses = sorted(table[DOSE].dropna().unique()) if DOSE in table else []
    if len(doses) < 2:
        is_common = len(doses) == 1 and table[DOSE].notna().all()
        return [(doses[0] if is_common else np.nan, table)]
    measured = table[table[DOSE].isna()]
    return [*((dose, table[table[DOSE] == dose]) for dose in doses), *([(np.nan, measured)] if len(measured) else [])]


def by_dose(tabulate: Callable[[pd.DataFrame], pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """Make a table of the rows of each dose, and join them; the column ``dose`` comes last."""
    return pd.concat([tabulate(rows).assign(dose=dose) for dose, rows in split_by_dose(table)], ignore_index=True)


def at_lowest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the lowest dose, which figures show and tables of other subjects take."""
    return split_by_dose(table)[0][1]


def dose_text(dose: float) -> str:
    """Write a dose for people."""
    return "measured" if np.isnan(dose) else f"{100 * dose:g} %"


def doses_table(quality: pd.DataFrame, cells: Sequence[CellSettings], stored: Sequence[float]) -> pd.DataFrame:
    """Make a row a model and dose, of runs with several doses: error, noise, sharpness and bias.

    ``seen``: whether a network was trained on the dose; - for what was not trained.
    """
    columns = ["model", DOSE, "scans", "slices", "rmse_hu_mean", "rmse_hu_sd", "rmse_change", *_OF_SCANS]
    if quality.get(DOSE, pd.Series(dtype=float)).nunique() < 2:
        return pd.DataFrame(columns=[*columns[:2], SEEN, *columns[2:]])
    trained = {cell.id: cell.training.doses or tuple(stored) for cell in cells}
    rows = quality.dropna(subset=DOSE).sort_values(DOSE, kind="stable")
    table = rows[columns].copy()
    table.insert(2, SEEN, [_seen(trained, model, dose) for model, dose in zip(rows["model"], rows[DOSE], strict=True)])
    order = {model: number for number, model in enumerate(dict.fromkeys(quality["model"]))}
    return table.sort_values("model", key=lambda models: models.map(order), kind="stable").reset_index(drop=True)


def _seen(trained: Mapping[str, Sequence[float]], model: str, dose: float) -> str:
    if model not in trained:
        return "-"
    return "yes" if dose in trained[model] else "no"


def worse_models(quality: pd.DataFrame) -> list[str]:
    """List the models that are not better than the input left alone, of several doses each with its dose."""
    several = len(split_by_dose(quality)) > 1
    worse = quality[quality["beats_input"] == "no"]
    return [
        f"{row['model']} at {dose_text(row[DOSE])}" if several else row["model"] for row in worse.to_dict("records")
    ]


def shown_dose(quality: pd.DataFrame) -> str:
    """Return the dose of the figures, where the run has several; nothing where it has a single one."""
    doses = split_by_dose(quality)
    return dose_text(doses[0][0]) if len(doses) > 1 else ""
