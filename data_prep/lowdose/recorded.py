"""The simulation that a pair's record describes: what its low dose was made with, to make it anew."""

import math
from typing import Any

from data_prep.errors import UserError
from data_prep.lowdose.model import NoiseModel
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from data_prep.store import Pair


def check_recorded(pair: Pair) -> None:
    """Check that a pair records how its low dose was simulated.

    Raises:
        UserError: it does not.
    """
    if not isinstance(pair.provenance.get("low_dose"), dict):
        raise UserError(f"{pair.path} has a measured low dose, which training.fresh cannot simulate")
    if None in pair.noise_models.values():
        raise UserError(f"{pair.path} records no noise model, as pairs of earlier versions: prepare the scan again")


def recorded_simulator(pair: Pair, dose: float) -> LowDoseSimulator:
    """Return the simulator of a pair's scan at any dose.

    It has the noise model of the stored dose that is the nearest by its ratio.

    Raises:
        UserError: the pair does not record how its low dose was simulated.
    """
    check_recorded(pair)
    settings = LowDoseSettings.from_record(pair.provenance["low_dose"]).at(dose)
    models: dict[float, Any] = pair.noise_models
    nearest = min(models, key=lambda stored: abs(math.log(stored / dose)))
    model = NoiseModel.from_record(models[nearest], settings.geometry)
    return LowDoseSimulator(settings, pair.shape[1], pair.provenance["spacing_mm"][2], model=model)
