"""The settings of a run: one typed, frozen tree."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from data_prep.settings import DataSettings, Settings
from pipeline.sampling import Sampling
from pipeline.training.settings import SIDE_MULTIPLE, Side, TrainingSettings

LOW_DOSE_INPUT = "low-dose"
"""Name of the untouched input where networks are listed: the baseline of every table."""

Transfer = Literal["none", "zero", "repeat", "mean", "noise"]
ModelName = Literal["ddnet", "redcnn"]

DDNET_2D, RED_CNN = "2d", "redcnn"
"""Ids of the 2D trainings."""

RED_CNN_SIDE = 21
"""Ten layers of 5 x 5 without padding leave one pixel of it in the middle."""


class Train2DSettings(Settings):
    """A 2D network."""

    ranks: int = Field(1, ge=1)
    training: TrainingSettings = TrainingSettings()


class StudySettings(Settings):
    """The grid of 3D trainings."""

    ranks: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    slices: tuple[Side, ...] = Field((16, 32), min_length=1)
    sampling: Sampling = "grouped"
    transfer: tuple[Transfer, ...] = Field(("zero",), min_length=1, description="one, or a list to compare")
    donor: Path | None = Field(
        None, description="2D weights in the authors' names (.npz, .pt) to transfer; else those trained here"
    )
    training: TrainingSettings = TrainingSettings()

    @field_validator("transfer", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("donor")
    @classmethod
    def _resolve(cls, donor: Path | None) -> Path | None:
        return donor and donor.expanduser().absolute()


class EvaluateSettings(Settings):
    """The judging of trained networks on the held-out slices."""

    crop: Side | None = Field(None, ge=192, description="side of the centre that is judged; null: the whole slice")
    device: Literal["auto", "cpu"] = "auto"
    threads: int = Field(2, ge=1)


class BudgetSettings(Settings):
    """What a run may take of a cluster."""

    gpu_hours: float | None = Field(
        None, gt=0, description="of all trainings: a forecast above it is not submitted; null: no limit"
    )


class RunSettings(Settings):
    """A whole run, from scans to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    runs: Path = Field(Path("runs"), description="folder of all runs")
    data: DataSettings
    train_2d: Train2DSettings = Field(Train2DSettings(), description="2D-DDnet, donor of the transfer")
    red_cnn: Train2DSettings | None = Field(None, description="RED-CNN for comparison, if given")
    study: StudySettings = StudySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for place, ranks, training in self._trainings():
            step = training.batch * training.accumulation * (ranks if training.work == "strong" else 1)
            if training.samples is not None and training.samples % step:
                what = "ranks x batch x accumulation" if training.work == "strong" else "batch x accumulation"
                raise ValueError(f"{place}.training.samples {training.samples} must be a multiple of {what} = {step}")
        return self

    @model_validator(mode="after")
    def _check_transfer(self) -> Self:
        study, donor = self.study.training, self.train_2d.training
        if set(self.study.transfer) == {"none"} or self.study.donor:
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
        if self.study.donor and set(self.study.transfer) == {"none"}:
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
        cells = [("study", ranks, self.study.training) for ranks in self.study.ranks]
        return [*((place, one.ranks, one.training) for place, one in flat.items() if one), *cells]


class CellSettings(Settings):
    """One training, fully resolved. ``validated``: slices of the volumes that it is validated on."""

    id: str
    model: ModelName = "ddnet"
    dims: Literal[2, 3]
    ranks: int
    slices: int
    sampling: Sampling
    validated: int
    validated_sampling: Sampling
    transfer: Transfer
    training: TrainingSettings


def cells_of(run: RunSettings) -> list[CellSettings]:
    """The 2D trainings first, then the study's grid by transfer, slice count and rank count."""
    flat = [_flat_cell(run, DDNET_2D, "ddnet", run.train_2d)]
    if run.red_cnn:
        flat.append(_flat_cell(run, RED_CNN, "redcnn", run.red_cnn))
    study = run.study
    grid = [
        CellSettings(
            id=f"3d-s{slices}-r{ranks}{'' if transfer == 'zero' else f'-{transfer}'}", dims=3, ranks=ranks,
            slices=slices, sampling=study.sampling, validated=slices,
            validated_sampling=study.sampling, transfer=transfer, training=study.training,
        )
        for transfer in study.transfer for slices in study.slices for ranks in study.ranks
    ]  # fmt: skip
    return [*flat, *grid]


def _flat_cell(run: RunSettings, name: str, model: ModelName, one: Train2DSettings) -> CellSettings:
    """A 2D training, validated on the slices of such volumes as the study's thinnest can be."""
    return CellSettings(
        id=name, model=model, dims=2, ranks=one.ranks, slices=1, sampling="window",
        validated=SIDE_MULTIPLE, validated_sampling=run.study.sampling, transfer="none", training=one.training,
    )  # fmt: skip
