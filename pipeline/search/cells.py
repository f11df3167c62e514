"""The cells of trials: what the study trains of a network, with the parameters of a trial."""

from pydantic import ValidationError

from data_prep.errors import UserError
from data_prep.settings_file import describe_faults
from pipeline.search.trials import Parameters, name_trial
from pipeline.settings.architectures import check_options
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.run import RunSettings
from pipeline.settings.search import with_parameters


def first_cell(run: RunSettings, network: str) -> CellSettings:
    """Return the first training of a network, which its trials are like."""
    return next(cell for cell in cells_of(run) if cell.network == network)


def check_space(run: RunSettings) -> None:
    """Check options that the settings alone cannot check: those of each network, and its ranges, one value at a time.

    Raises:
        UserError: a network cannot be built or trained with them.
    """
    assert run.search
    for network in run.searched:
        settings = run.networks[network]
        ranges = {name: x for name, x in run.search.space_of(network).items() if name.startswith("options.")}
        changes = [(f".{name}", {name.partition(".")[2]: x}) for name, values in ranges.items() for x in values.samples]
        for path, change in [("", {}), *changes]:
            try:
                check_options(settings.model, settings.dims, {**settings.options, **change})
            except UserError as error:
                raise UserError(f"{'search.space: ' if change else ''}networks.{network}{path}: {error}") from error


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

    ``volumes``: that there are to train on, 0 if that is not known yet.

    Raises:
        UserError: together the parameters are not allowed.
    """
    cell = first_cell(apply(run, network, parameters), network)
    training, ranks = cell.training, cell.ranks
    changes = {"accumulation": training.accumulation * ranks, "checkpoints_kept": 1}
    samples = training.samples or volumes
    if training.work == "weak" and ranks > 1 and samples:
        changes["samples"] = samples * ranks
    return cell.model_copy(update={
        "id": name_trial(network, number), "ranks": 1, "training": training.model_copy(update=changes),
    })  # fmt: skip
