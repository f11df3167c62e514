"""The settings of a run: one typed, frozen tree."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from data_prep.settings import DataSettings, Settings, expand_home
from data_prep.split import Part
from pipeline.sampling import Sampling
from pipeline.settings.names import Transfer
from pipeline.settings.training import RED_CNN_SIDE, Side, TrainingSettings


class Train2DSettings(Settings):
    """Settings of a 2D training."""

    ranks: int = Field(1, ge=1)
    training: TrainingSettings = TrainingSettings()


class GridSettings(Settings):
    """Grid of 3D trainings: all combinations of the listed values. A single value is a list of one."""

    ranks: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    slices: tuple[Side, ...] = Field((16, 32), min_length=1)
    sampling: tuple[Sampling, ...] = Field(("grouped",), min_length=1)
    transfer: tuple[Transfer, ...] = Field(("zero",), min_length=1)
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="in place of training.seed")
    epochs: PositiveInt | None = Field(None, description="in place of training.epochs")

    @field_validator("ranks", "slices", "sampling", "transfer", "seeds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value


class StudySettings(GridSettings):
    """Grid of 3D trainings, and further grids, which inherit from it the values that they do not set."""

    also: tuple[GridSettings, ...] = Field((), description="further grids; trainings that are alike are done once")
    donor: Path | None = Field(
        None, description="2D weights in the authors' names (.npz, .pt) to transfer; else those trained here"
    )
    training: TrainingSettings = TrainingSettings()
    control_steps: int | None = Field(
        None, ge=20, description="of each control arm (made-up data, no exchange, one rank alone); null: no such arms"
    )
    allocation: Literal["each", "one"] = Field(
        "each", description="each: every training is a job; one: all share one job, and so its nodes, in turn"
    )
    data_rate: float | None = Field(
        None, gt=0, description="samples a second that the file system gives all ranks, for the projection; null: any"
    )
    include_disturbed: bool = Field(
        False, description="speed-up, laws and projection also use trainings that other processes disturbed"
    )
    order_seed: int = Field(0, description="of the order in which trainings are begun")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("also"), list | tuple):
            return values
        inherited = {name: values[name] for name in GridSettings.model_fields if name in values}
        also = [{**inherited, **grid} if isinstance(grid, dict) else grid for grid in values["also"]]
        return {**values, "also": also}

    @field_validator("donor")
    @classmethod
    def _resolve(cls, donor: Path | None) -> Path | None:
        return donor and expand_home(donor).absolute()

    @property
    def grids(self) -> tuple[GridSettings, ...]:
        """The study's own grid and the further ones."""
        return (self, *self.also)

    @property
    def transfers(self) -> bool:
        """Whether a training starts from transferred weights."""
        return any(fill != "none" for grid in self.grids for fill in grid.transfer)


class EvaluateSettings(Settings):
    """Settings of the judging of trained networks on the held-out slices."""

    crop: Side | None = Field(None, ge=192, description="side of the centre that is judged; null: the whole slice")
    also: tuple[Literal["train", "validation"], ...] = Field(
        ("validation",), description="parts of the split that are judged beside the test part"
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
    train_2d: Train2DSettings = Field(Train2DSettings(), description="2D-DDnet, donor of the transfer")
    red_cnn: Train2DSettings | None = Field(None, description="RED-CNN for comparison, if given")
    study: StudySettings = StudySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    budget: BudgetSettings = BudgetSettings()

    @field_validator("runs")
    @classmethod
    def _expand(cls, runs: Path) -> Path:
        return expand_home(runs)

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for key, ranks, training in self._trainings():
            step = training.batch * training.accumulation * (ranks if training.work == "strong" else 1)
            if training.samples is not None and training.samples % step:
                factors = "ranks x batch x accumulation" if training.work == "strong" else "batch x accumulation"
                raise ValueError(f"{key}.training.samples {training.samples} must be a multiple of {factors} = {step}")
        return self

    @model_validator(mode="after")
    def _check_transfer(self) -> Self:
        study, donor = self.study.training, self.train_2d.training
        if not self.study.transfers or self.study.donor:
            return self
        for name in ("residual", "scaling"):
            if getattr(study, name) != getattr(donor, name):
                raise ValueError(f"study.training.{name} must equal train_2d.training.{name} for a transfer")
        if (study.norm == "group") != (donor.norm == "group"):
            raise ValueError("study.training.norm and train_2d.training.norm must both be group, or neither")
        return self

    @model_validator(mode="after")
    def _check_donor(self) -> Self:
        study = self.study.training
        if self.study.donor and not self.study.transfers:
            raise ValueError("study.donor has no effect with study.transfer none: name a fill, or leave it out")
        if self.study.donor and (study.residual or study.norm == "group" or study.scaling == "hu"):
            raise ValueError(
                "study.donor holds a network without residual or group norm, on [0, 1]: set study.training.residual "
                "to false, norm to batch, sync or frozen, and scaling to minmax or unit"
            )
        return self

    @model_validator(mode="after")
    def _check_red_cnn(self) -> Self:
        if self.red_cnn is None:
            return self
        training = self.red_cnn.training
        if training.activation_checkpointing:
            raise ValueError("red_cnn.training.activation_checkpointing has no effect on RED-CNN: leave it out")
        if training.crop and training.crop < RED_CNN_SIDE:
            raise ValueError(
                f"red_cnn.training.crop {training.crop} is too small: RED-CNN takes {RED_CNN_SIDE} or more"
            )
        if training.scaling == "hu" and not training.residual:
            raise ValueError(
                "red_cnn.training without residual ends in a ReLU and gives no HU below 0: "
                "set red_cnn.training.scaling to unit or minmax"
            )
        return self

    def _trainings(self) -> list[tuple[str, int, TrainingSettings]]:
        flat = {"train_2d": self.train_2d, "red_cnn": self.red_cnn}
        ranks_of_study = {ranks for grid in self.study.grids for ranks in grid.ranks}
        cells = [("study", ranks, self.study.training) for ranks in sorted(ranks_of_study)]
        return [*((key, settings.ranks, settings.training) for key, settings in flat.items() if settings), *cells]
