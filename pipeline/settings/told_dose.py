"""The dose that a network is told, where its training has it so."""

from data_prep.errors import UserError
from pipeline.settings.training import TrainingSettings


def told_dose(training: TrainingSettings, dose: float | None) -> float | None:
    """Return the dose by which a network's intensities are scaled; None for a network that is told none.

    Raises:
        UserError: the dose is not known, and the network must be told it.
    """
    if not training.tell_dose:
        return None
    if dose is None:
        raise UserError(
            "this network was trained to be told the dose: say it with --dose, as a fraction of the full dose such as "
            "0.1"
        )
    return dose


def check_dose(training: TrainingSettings, dose: float | None) -> None:
    """Check that a user gives the dose to the networks that are told it, and to no other.

    Raises:
        UserError: it is missing, is no fraction, or would have no effect.
    """
    if dose is not None and not 0 < dose <= 1:
        raise UserError(f"--dose {dose:g} is no fraction of the full dose, wanted above 0 and at most 1")
    if dose is not None and not training.tell_dose:
        raise UserError("--dose has no effect: this network was not trained to be told the dose, leave it out")
    told_dose(training, dose)
