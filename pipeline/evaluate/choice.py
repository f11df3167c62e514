"""The network of a run that is exported: that of the least error in validation, relative to the low-dose input."""

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.errors import UserError
from pipeline.settings.names import LOW_DOSE_INPUT


def choose_network(trainings: Mapping[str, Mapping[str, Any]], validated: Mapping[str, Hashable], judged: Path) -> str:
    """Choose by the validations of the trainings, or where these do not compare by the judged validation part.

    Args:
        trainings: results of the networks' trainings.
        validated: what decides on the doses and voxels on which each network was validated while it was trained.
        judged: folder with the rows of the judged scans. Relative errors are averaged over all stored doses.

    Raises:
        UserError: these differ, and the validation part was not judged.
    """
    if len({validated[name] for name in trainings}) == 1:
        return min(trainings, key=lambda name: _validation_error(trainings[name]))
    before = _errors(judged, LOW_DOSE_INPUT)
    if before.empty:
        raise UserError(
            f"the networks {', '.join(trainings)} were validated at different doses or on different voxels, so their "
            "errors do not compare and no model is written: judge the validation part, evaluate.also: [validation]"
        )
    return min(trainings, key=lambda name: float((_errors(judged, name) / before).mean()))


def _validation_error(training: Mapping[str, Any]) -> float:
    validation = training["validation"]
    return float(validation["rmse_hu"] / validation["low_dose_rmse_hu"])


def _errors(judged: Path, name: str) -> "pd.Series[float]":
    """Return the mean RMSE of the validation part's scans at each dose; nothing if the part was not judged."""
    scans = pd.DataFrame(json.loads((judged / f"{name}.scans.json").read_text()))
    return scans[scans["part"] == "validation"].groupby("dose", dropna=False)["rmse_hu"].mean()
