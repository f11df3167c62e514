"""Checks of a network's settings against those of the data, the study and other networks."""

from collections.abc import Iterable, Mapping

from data_prep.settings import DataSettings
from pipeline.settings.networks import NetworkSettings, donor_of
from pipeline.settings.study import GridSettings, StudySettings
from pipeline.settings.training import TrainingSettings


def check_samples(network: str, rank_counts: Iterable[int], training: TrainingSettings) -> None:
    """Check that an epoch's samples fill whole steps on each number of ranks.

    Raises:
        ValueError: they do not.
    """
    for ranks in rank_counts:
        step = training.batch * training.accumulation * (ranks if training.work == "strong" else 1)
        if training.samples and training.samples % step:
            factors = "ranks x batch x accumulation" if training.work == "strong" else "batch x accumulation"
            raise ValueError(
                f"networks.{network}.training.samples {training.samples} must be a multiple of {factors} = {step}"
            )


def check_ranks(network: str, ranks: int, *, is_in_grid: bool) -> None:
    """Check that the ranks of a network are not set where the study's have effect.

    Raises:
        ValueError: they are.
    """
    if is_in_grid and ranks != 1:
        raise ValueError(
            f"networks.{network}.ranks has no effect, as the study's grid names the network: set study.ranks instead"
        )


def check_grid(key: str, grid: GridSettings) -> None:
    """Check that a grid without networks asks for no trainings.

    Raises:
        ValueError: it does.
    """
    lists = {"seeds": grid.seeds, "epochs": grid.epochs, "ranks": grid.ranks != (1,) and grid.ranks}
    defaults = GridSettings().model_dump()
    for name, setting in lists.items():
        if setting and setting != defaults[name]:
            raise ValueError(
                f"{key}.{name} has no effect: without a 3D network the grid has none, unless {key}.network names some"
            )


def check_control_arms(study: StudySettings, *, has_networks: bool) -> None:
    """Check that a study without networks in its grids asks for no control arms.

    Raises:
        ValueError: it does.
    """
    if study.control_steps is not None and not has_networks:
        raise ValueError(
            "study.control_steps has no effect: without a 3D network the grid has none, unless study.network names some"
        )


def check_doses(network: str, training: TrainingSettings, data: DataSettings) -> None:
    """Check that the doses to train on are simulated, and stored unless the noise is fresh.

    Raises:
        ValueError: they are not.
    """
    key, stored = f"networks.{network}.training", data.low_dose.doses
    measured = [source.name for source in data.sources if not source.uses_simulation]
    setting = next((name for name in ("fresh", "doses", "tell_dose") if getattr(training, name)), None)
    if measured and setting:
        raise ValueError(
            f"{key}.{setting} needs simulated low doses, and those of {measured[0]} are measured: leave {setting} out, "
            "or set the source's low_dose to simulated"
        )
    absent = [f"{dose:g}" for dose in training.doses or () if dose not in stored]
    if absent and not training.fresh:
        raise ValueError(
            f"{key}.doses has {', '.join(absent)}, and data.low_dose.doses only {', '.join(map(str, stored))}: add "
            "what is missing there, or set fresh: true"
        )


def check_transfer(network: str, networks: Mapping[str, NetworkSettings], *, is_transferred: bool) -> None:
    """Check that a 3D network can start from its donor, if the study wants it to.

    Raises:
        ValueError: there is no donor, or it does not fit.
    """
    if networks[network].donor_file:
        _check_donor_file(network, networks[network], is_used=is_transferred)
    elif is_transferred:
        _check_donor(network, networks)


def _check_donor(network: str, networks: Mapping[str, NetworkSettings]) -> None:
    donor = donor_of(network, networks)
    if donor is None:
        raise ValueError(
            f"networks.{network} cannot start from 2D weights: add a 2D network of model {networks[network].model} "
            "with the same options, or set study.transfer to none"
        )
    deep, flat = networks[network].training, networks[donor].training
    for name in ("residual", "scaling", "tell_dose"):
        if getattr(deep, name) != getattr(flat, name):
            raise ValueError(
                f"networks.{network}.training.{name} must equal networks.{donor}.training.{name} for a transfer"
            )
    if networks[network].architecture.has_norms and (deep.norm == "group") != (flat.norm == "group"):
        raise ValueError(
            f"networks.{network}.training.norm and networks.{donor}.training.norm must both be group, or neither"
        )


def _check_donor_file(network: str, settings: NetworkSettings, *, is_used: bool) -> None:
    training = settings.training
    if not is_used:
        raise ValueError(
            f"networks.{network}.donor_file has no effect with study.transfer none: name a fill, or leave it out"
        )
    if training.residual or training.norm == "group" or training.scaling == "hu":
        raise ValueError(
            f"networks.{network}.donor_file holds a network without residual or group norm, on [0, 1]: set "
            f"networks.{network}.training.residual to false, norm to batch, sync or frozen, and scaling to minmax or "
            "unit"
        )
