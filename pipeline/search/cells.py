"""The cells of trials: what the study trains of a network, with the parameters of a trial."""

from pydantic import ValidationError

from data_prep.errors import UserError
from data_prep.settings_file import describe_faults
from pipeline.search.trials import Parameters, name_trial
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.run import RunSettings
from pipeline.settings.search import with_parameters


def first_cell(run: RunSettings, network: str) -> CellSettings:
    """Return the first training of a network, which its trials are like."""
    return next(cell for cell in cells_of(run) if cell.network == network)


def apply(run: RunSettings, network: str, parameters: Parameters) -> RunSettings:
    """Return the settings of the run with the parameters of a trial, and without the search.

    Raises:
        UserError: together the parameters are not allowed.
    """
    try:
        return RunSettings.model_validate(with_parameters(run.model_dump(exclude={"search"}), network, parameters))
    except ValidationError as error:
        raise UserError(describe_faults(error, RunSettings)) from error


def trial_cell(run: RunSettings, network: str, number: int, parameters: Parameters, volumes: int) -> CellSettings:
    """Return the training of a trial: the network's first, on one rank that accumulates the batches of all its ranks.

    ``volumes``: that there are to train on.

    Raises:
        UserError: together the parameters are not allowed.
    """
    cell = first_cell(apply(run, network, parameters), network)
    training, ranks = cell.training, cell.ranks
    changes = {"accumulation": training.accumulation * ranks, "checkpoints_kept": 1}
    if training.work == "weak" and ranks > 1:
        changes["samples"] = (training.samples or volumes) * ranks
    return cell.model_copy(update={
        "id": name_trial(network, number), "ranks": 1, "training": training.model_copy(update=changes),
    })  # fmt: skip
