"""The simulation that a pair's record describes: what its low dose was made with, to make it anew."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

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
        raise UserError(f"{pair.path} has a measured low dose, which training.fresh cannot simulate: leave fresh out")
    if None in pair.noise_models.values():
        raise UserError(f"{pair.path} records no noise model, as pairs of earlier versions: prepare the scan again")


def recorded_simulator(pair: Pair, dose: float) -> LowDoseSimulator:
    """Return the simulator of a pair's scan at any dose.

    Raises:
        UserError: the pair does not record how its low dose was simulated.
    """
    check_recorded(pair)
    settings = LowDoseSettings.from_record(pair.provenance["low_dose"]).at(dose)
    stored = {at: NoiseModel.from_record(record, settings.geometry) for at, record in pair.noise_models.items()}
    return LowDoseSimulator(settings, pair.shape[1], pair.provenance["spacing_mm"][2], model=model_at(stored, dose))


def model_at(stored: Mapping[float, NoiseModel], dose: float) -> NoiseModel:
    """Return the noise model of a scan at any dose, from those that were matched at the stored doses.

    It is that of the nearest by its ratio, with the gain that follows from the two nearest: the share of electronic
    noise grows with (1 + dose) / dose, and 1 / gain^2 with it in a line. With a single stored dose it is that one's.
    """
    nearest, *further = sorted(stored, key=lambda at: abs(math.log(at / dose)))
    if not further or nearest == dose or stored[nearest].gain_slices != stored[further[0]].gain_slices:
        return stored[nearest]
    x, (first, second) = _electronic(dose), (_electronic(at) for at in (nearest, further[0]))
    inverse, inverse_of_further = (np.array(stored[at].gain) ** -2.0 for at in (nearest, further[0]))
    line = inverse + (inverse_of_further - inverse) * (x - first) / (second - first)
    if (line <= 0).any():
        return stored[nearest]
    return replace(stored[nearest], gain=tuple((line**-0.5).tolist()))


def _electronic(dose: float) -> float:
    """Return the growth of electronic noise's share of the variance that is added."""
    return (1 + dose) / dose
