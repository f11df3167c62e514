"""The settings of a run: one typed, frozen tree."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from data_prep.settings import DataSettings, Settings, expand_home
from data_prep.split import Part
from pipeline.settings.names import ClassicalName
from pipeline.settings.networks import DEFAULT_NETWORKS, NetworkSettings, check_ids, donor_of
from pipeline.settings.search import SearchSettings, check_values
from pipeline.settings.study import GridSettings, StudySettings
from pipeline.settings.training import Side, TrainingSettings

_MOVED = {
    "train_2d": "train_2d is networks.2d now: write networks: {2d: {model: ddnet, dims: 2, ranks: …, training: {…}}, "
    "3d: {model: ddnet, dims: 3}}; study.training is of all networks, and networks.3d.training of the 3D one",
    "red_cnn": "red_cnn is one of the networks now: write networks: {redcnn: {model: redcnn, dims: 2, ranks: …, "
    "training: {…}}}, beside the others",
}
"""Settings of earlier versions, and how to write them."""


class EvaluateSettings(Settings):
    """Settings of the judging of trained networks on the held-out slices."""

    crop: Side | None = Field(None, ge=192, description="side of the centre that is judged; null: the whole slice")
    also: tuple[Literal["train", "validation"], ...] = Field(
        ("validation",), description="parts of the split that are judged beside the test part"
    )
    classical: tuple[ClassicalName, ...] = Field(
        ("tv",), description="classical denoisers: tv, total variation; nlm, 3D non-local means"
    )
    device: Literal["auto", "cpu"] = "auto"
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a process, that judge several scans at once; null: all its cores"
    )
    workers: int = Field(1, ge=1, description="processes that share the networks")

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the split that are judged."""
        return ("test", *self.also)


class BudgetSettings(Settings):
    """Limits and prices of a cluster's GPU-hours."""

    gpu_hours: float | None = Field(
        None, gt=0, description="of all trainings: a forecast above it is not submitted; null: no limit"
    )
    gpu_hour_price: float | None = Field(None, gt=0, description="of one GPU-hour at the site, for the bill")
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="of the price, by its ISO 4217 code")

    def cost(self, gpu_hours: float) -> float | None:
        """Return the cost of GPU-hours, None if they have no price."""
        return None if self.gpu_hour_price is None else gpu_hours * self.gpu_hour_price

    def bill(self, gpu_hours: float) -> str | None:
        """Return the cost of GPU-hours with its currency, for people; None if they have no price."""
        cost = self.cost(gpu_hours)
        return None if cost is None else f"{cost:,.2f} {self.currency}"


class RunSettings(Settings):
    """A whole run, from scans to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    runs: Path = Field(Path("runs"), description="folder of all runs")
    share: Literal["none", "group"] = Field(
        "none",
        description="who may read the run folder beside its user: nobody, or the folder's group; owners and groups "
        "of the folders above are trusted then",
    )
    data: DataSettings
    study: StudySettings = StudySettings()
    networks: dict[str, NetworkSettings] = Field(
        DEFAULT_NETWORKS, validate_default=True, description="by id; those that no grid names are trained once"
    )
    evaluate: EvaluateSettings = EvaluateSettings()
    search: SearchSettings | None = Field(None, description="of `quarterdose search`, which tries settings in trials")
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="before")
    @classmethod
    def _share_training(cls, values: Any) -> Any:
        """Give each network the settings of ``study.training`` that its own do not set."""
        if not isinstance(values, dict):
            return values
        for key, sentence in _MOVED.items():
            if key in values:
                raise ValueError(sentence)
        networks = values.get("networks", DEFAULT_NETWORKS)
        if not isinstance(networks, dict):
            return values
        return {**values, "networks": {name: _sharing(network, _shared(values)) for name, network in networks.items()}}

    @field_validator("runs")
    @classmethod
    def _expand(cls, runs: Path) -> Path:
        return expand_home(runs)

    @field_validator("networks", mode="before")
    @classmethod
    def _check_ids(cls, networks: Any) -> Any:
        if isinstance(networks, dict):
            check_ids(networks)
        return networks

    @model_validator(mode="after")
    def _check_networks(self) -> Self:
        for network in self.networks:
            donor_of(network, self.networks)
        for number, grid in enumerate(self.study.grids):
            key = f"study.also.{number - 1}.network" if number else "study.network"
            for network in grid.network or ():
                if network not in self.networks:
                    raise ValueError(f"{key}: there is no network {network}; networks has {', '.join(self.networks)}")
        return self

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for network, settings in self.networks.items():
            for ranks in sorted(self._rank_counts(network)):
                _check_samples(network, ranks, settings.training)
        return self

    @model_validator(mode="after")
    def _check_transfer(self) -> Self:
        for network, settings in self.networks.items():
            starts = any(fill != "none" for grid in self.study.grids if network in self.networks_of(grid)
                         for fill in grid.transfer)  # fmt: skip
            if settings.dims == 3 and settings.donor_file:
                _check_donor_file(network, settings, is_used=starts)
            elif settings.dims == 3 and starts:
                self._check_donor(network, settings)
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        """Check the names in ``search``, and each end of an interval and each choice by itself."""
        if self.search is None:
            return self
        if unknown := [network for network in self.searched if network not in self.networks]:
            raise ValueError(
                f"search.networks: there is no network {unknown[0]}; networks has {', '.join(self.networks)}"
            )
        self.search.check_paths(self.networks)
        values = self.model_dump(exclude={"search"})
        for network in self.searched:
            ranges = self.search.space_of(network)
            if not ranges:
                raise ValueError(
                    f"search.space has no setting of {network}: add one, or leave it out of search.networks"
                )
            check_values(values, type(self), network, ranges)
        return self

    @property
    def searched(self) -> tuple[str, ...]:
        """Ids of the networks that a search tries settings of."""
        return (self.search and self.search.networks) or tuple(self.networks)

    @model_validator(mode="after")
    def _check_doses(self) -> Self:
        for network, settings in self.networks.items():
            _check_doses(network, settings.training, self.data)
        return self

    def _check_donor(self, network: str, settings: NetworkSettings) -> None:
        donor = donor_of(network, self.networks)
        if donor is None:
            raise ValueError(
                f"networks.{network} cannot start from 2D weights: add a 2D network of model {settings.model} with the "
                "same options, or set study.transfer to none"
            )
        deep, flat = settings.training, self.networks[donor].training
        for name in ("residual", "scaling"):
            if getattr(deep, name) != getattr(flat, name):
                raise ValueError(
                    f"networks.{network}.training.{name} must equal networks.{donor}.training.{name} for a transfer"
                )
        if (deep.norm == "group") != (flat.norm == "group"):
            raise ValueError(
                f"networks.{network}.training.norm and networks.{donor}.training.norm must both be group, or neither"
            )

    def networks_of(self, grid: GridSettings) -> tuple[str, ...]:
        """Return the ids of the networks of a grid of the study: by default all 3D networks."""
        return grid.network or tuple(name for name, network in self.networks.items() if network.dims == 3)

    def is_in_grid(self, network: str) -> bool:
        """Whether a grid of the study names the network; else it is trained once."""
        return any(network in self.networks_of(grid) for grid in self.study.grids)

    def _rank_counts(self, network: str) -> set[int]:
        counts = {ranks for grid in self.study.grids if network in self.networks_of(grid) for ranks in grid.ranks}
        return counts or {self.networks[network].ranks}


def _shared(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in ``study.training``; none where they are faulty, so that a fault is named once."""
    study = values.get("study")
    if isinstance(study, StudySettings):
        return study.training.model_dump()
    training = study.get("training") if isinstance(study, dict) else None
    if isinstance(training, TrainingSettings):
        return training.model_dump()
    try:
        TrainingSettings.model_validate(training)
    except ValidationError:
        return {}
    assert isinstance(training, dict)
    return training


def _sharing(network: Any, shared: dict[str, Any]) -> Any:
    """Add the shared settings of a training to those of a network that differ."""
    if not isinstance(network, dict) or not isinstance(network.get("training", {}), dict):
        return network
    return {**network, "training": {**shared, **network.get("training", {})}}


def _check_samples(network: str, ranks: int, training: TrainingSettings) -> None:
    step = training.batch * training.accumulation * (ranks if training.work == "strong" else 1)
    if training.samples is not None and training.samples % step:
        factors = "ranks x batch x accumulation" if training.work == "strong" else "batch x accumulation"
        raise ValueError(
            f"networks.{network}.training.samples {training.samples} must be a multiple of {factors} = {step}"
        )


def _check_doses(network: str, training: TrainingSettings, data: DataSettings) -> None:
    key, stored = f"networks.{network}.training", data.low_dose.doses
    measured = [source.name for source in data.sources if not source.uses_simulation]
    if measured and (training.fresh or training.doses):
        setting = "fresh" if training.fresh else "doses"
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
