"""The settings of a run: one typed, frozen tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from data_prep.setting_types import Threads, UserPath, distinct, expect
from data_prep.settings import DataSettings, Settings
from data_prep.split import Part
from pipeline.settings.checks import (
    check_control_arms,
    check_doses,
    check_grid,
    check_ranks,
    check_samples,
    check_transfer,
)
from pipeline.settings.names import FORMATS, ClassicalName, FigureFormat
from pipeline.settings.networks import DEFAULT_NETWORKS, NetworkSettings, check_ids, donor_of
from pipeline.settings.search import Range, SearchSettings, check_values
from pipeline.settings.study import GridSettings, StudySettings, shared_training, with_shared
from pipeline.settings.training import Crop

Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    expect(
        "at most 64 letters from a to z or A to Z, digits, dots, hyphens and underscores, the first a letter or digit"
    ),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), expect("a code of three capital letters, such as EUR")]
_MOVED = {
    "train_2d": "train_2d is networks.2d now: write networks: {2d: {model: ddnet, dims: 2, ranks: …, training: {…}}, "
    "3d: {model: ddnet, dims: 3}}; study.training is of all networks, and networks.3d.training of the 3D one",
    "red_cnn": "red_cnn is one of the networks now: write networks: {redcnn: {model: redcnn, dims: 2, ranks: …, "
    "training: {…}}}, beside the others",
}
"""Settings of earlier versions, and how to write them."""


class EvaluateSettings(Settings):
    """Settings of the judging of trained networks on the held-out slices."""

    crop: Crop | None = Field(None, ge=192, description="side of the centre that is judged; null: the whole slice")
    also: tuple[Literal["train", "validation"], ...] = Field(
        ("validation",), description="parts of the split that are judged beside the test part"
    )
    classical: tuple[ClassicalName, ...] = Field(
        ("tv",), description="classical denoisers: tv, total variation; nlm, 3D non-local means"
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: a GPU a process where there are GPUs")
    threads: Threads | None = Field(
        None, description="CPU threads of a process, that judge several scans at once; null: all its cores"
    )
    workers: int = Field(1, ge=1, description="processes that share the networks")

    @field_validator("classical")
    @classmethod
    def _check_classical(cls, names: tuple[ClassicalName, ...]) -> tuple[ClassicalName, ...]:
        return distinct(names)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the split that are judged."""
        return ("test", *self.also)


class ReportSettings(Settings):
    """Settings of the report."""

    formats: tuple[FigureFormat, ...] = Field(
        FORMATS,
        description="files of each figure, beside the one that the page shows: a PNG of images, else an SVG",
    )

    @field_validator("formats")
    @classmethod
    def _check_formats(cls, names: tuple[FigureFormat, ...]) -> tuple[FigureFormat, ...]:
        return distinct(names)


class BudgetSettings(Settings):
    """Limits and prices of a cluster's GPU-hours."""

    gpu_hours: float | None = Field(
        None, gt=0, description="of all trainings: a forecast above it is not submitted; null: no limit"
    )
    gpu_hour_price: float | None = Field(None, gt=0, description="of one GPU-hour at the site, for the bill")
    currency: Currency = Field("EUR", description="of the price, by its ISO 4217 code")

    def cost(self, gpu_hours: float) -> float | None:
        """Return the cost of GPU-hours, None if they have no price."""
        return None if self.gpu_hour_price is None else gpu_hours * self.gpu_hour_price

    def bill(self, gpu_hours: float) -> str | None:
        """Return the cost of GPU-hours with its currency, for people; None if they have no price."""
        cost = self.cost(gpu_hours)
        return None if cost is None else f"{cost:,.2f} {self.currency}"


class RunSettings(Settings):
    """A whole run, from scans to report."""

    name: Name = Field(
        description="of the run, and of its folder; at most 64 letters, digits, dots, hyphens, underscores"
    )
    runs: UserPath = Field(Path("runs"), description="folder of all runs")
    share: Literal["none", "group"] = Field(
        "none",
        description="who may read the run folder beside its user: nobody, or the folder's group; owners and groups "
        "of the folders above are trusted then",
    )
    data: DataSettings = Field(description="the scans and their low dose")
    study: StudySettings = Field(StudySettings(), description="the grid of trainings")
    networks: dict[str, NetworkSettings] = Field(
        DEFAULT_NETWORKS, validate_default=True, min_length=1,
        description="by id; those that no grid names are trained once",
    )  # fmt: skip
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="how networks are judged")
    report: ReportSettings = Field(ReportSettings(), description="the report's files")
    search: SearchSettings | None = Field(None, description="of `quarterdose search`, which tries settings in trials")
    budget: BudgetSettings = Field(BudgetSettings(), description="the GPU-hours of a cluster")

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
        shared = shared_training(values.get("study"))
        return {**values, "networks": {name: with_shared(network, shared) for name, network in networks.items()}}

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
            key = f"study.also.{number - 1}" if number else "study"
            for network in grid.network or ():
                if network not in self.networks:
                    ids = ", ".join(self.networks)
                    raise ValueError(f"{key}.network: there is no network {network}; networks has {ids}")
            if not self.networks_of(grid):
                check_grid(key, grid)
        check_control_arms(self.study, has_networks=any(map(self.networks_of, self.study.grids)))
        return self

    @model_validator(mode="after")
    def _check_trainings(self) -> Self:
        for network, settings in self.networks.items():
            grids = [grid for grid in self.study.grids if network in self.networks_of(grid)]
            counts = {ranks for grid in grids for ranks in grid.ranks} or {settings.ranks}
            check_samples(network, sorted(counts), settings.training)
            check_ranks(network, settings.ranks, is_in_grid=bool(grids))
            check_doses(network, settings.training, self.data)
            is_transferred = any(fill != "none" for grid in grids for fill in grid.transfer)
            if settings.dims == 3:
                check_transfer(network, self.networks, is_transferred=is_transferred)
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        """Check the names in ``search``, and values of its ranges, each by itself."""
        if self.search is None:
            return self
        if unknown := [network for network in self.searched if network not in self.networks]:
            raise ValueError(
                f"search.networks: there is no network {unknown[0]}; networks has {', '.join(self.networks)}"
            )
        self.search.check_paths(self.networks, self.searched)
        values = self.model_dump(exclude={"search"})
        for network in self.searched:
            ranges = self.search.space_of(network)
            if not ranges:
                raise ValueError(
                    f"search.space has no setting of {network}: add one, or leave it out of search.networks"
                )
            self._check_effect(network, ranges)
            check_values(values, type(self), network, ranges)
        return self

    def _check_effect(self, network: str, ranges: Mapping[str, Range]) -> None:
        """Check that ranges of a network change its trials, and not on what they are judged."""
        if "training.crop" in ranges and self.networks[network].training.validation == "crops":
            raise ValueError(
                f"search.space: crop changes on what trials of {network} are judged: set study.training.validation to "
                "scans, or leave it out"
            )
        grid = next((grid for grid in self.study.grids if network in self.networks_of(grid)), None)
        if "training.epochs" in ranges and grid and grid.epochs:
            raise ValueError(
                f"search.space: epochs has no effect on trials of {network}, which the study trains for its own "
                f"{grid.epochs} epochs: leave study.epochs out, or the range"
            )

    @property
    def searched(self) -> tuple[str, ...]:
        """Ids of the networks that a search tries settings of."""
        return (self.search and self.search.networks) or tuple(self.networks)

    def to_values(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the settings as a file has them: of each network's training what differs from ``study.training``."""
        values = self.model_dump(mode="json", exclude_defaults=exclude_defaults)
        shared, networks = self.study.training.model_dump(mode="json"), dict[str, Any]()
        for name, network in self.networks.items():
            training = network.training.model_dump(mode="json").items()
            networks[name] = network.model_dump(mode="json", exclude_defaults=exclude_defaults)
            networks[name]["training"] = {key: setting for key, setting in training if setting != shared[key]}
        return {**values, "networks": networks}

    def networks_of(self, grid: GridSettings) -> tuple[str, ...]:
        """Return the ids of the networks of a grid of the study: by default all 3D networks."""
        return grid.network or tuple(name for name, network in self.networks.items() if network.dims == 3)

    def is_in_grid(self, network: str) -> bool:
        """Whether a grid of the study names the network; else it is trained once."""
        return any(network in self.networks_of(grid) for grid in self.study.grids)
