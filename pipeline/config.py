"""The settings of a run: one typed, frozen tree."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from data_prep.settings import DataSettings, Settings
from pipeline.intensity import ScalingName
from pipeline.sampling import Sampling

SIDE_MULTIPLE = 16
"""DDnet halves each side four times."""

Side = Annotated[int, Field(ge=SIDE_MULTIPLE, multiple_of=SIDE_MULTIPLE)]

LOW_DOSE_INPUT = "low-dose"
"""Name of the untouched input where networks are listed: the baseline of every table."""

RECIPES: dict[str, dict[str, Any]] = {
    "default": {
        "scaling": "hu",
        "residual": True,
        "schedule": "cosine",
        "ms_ssim": "wang",
    },
    "paper": {
        "scaling": "unit",
        "residual": False,
        "schedule": "exponential",
        "ms_ssim": "authors",
        "epochs": 50,
        "crop": None,
        "batch": 1,
    },
}


class TrainingSettings(Settings):
    """How one network is trained. ``recipe`` sets what is not given."""

    recipe: Literal["default", "paper"] = "default"
    scaling: ScalingName = "hu"
    residual: bool = Field(True, description="the network predicts the correction")
    ms_ssim: Literal["wang", "authors"] = "wang"
    ms_ssim_weight: float = Field(0.1, ge=0, description="loss = MSE + this * (1 - MS-SSIM)")
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["cosine", "exponential"] = Field("cosine", description="to zero, or x 0.8 an epoch")
    warmup: float = Field(
        0.0, ge=0, le=1, description="share of the steps over which the rate rises to its full height"
    )
    norm: Literal["batch", "frozen"] = Field("batch", description="frozen: running statistics stay as they are")
    epochs: int = Field(50, ge=1)
    samples: int | None = Field(None, ge=1, description="an epoch, over all ranks; one a training volume if null")
    batch: int = Field(1, ge=1, description="samples a rank and step")
    crop: Side | None = Field(64, description="side in the plane, pixels; null: the whole slice")
    validation_samples: int = Field(8, ge=1)
    log_steps: int = Field(10, ge=1, description="steps a line of metrics.jsonl")
    checkpoint_minutes: float = Field(5.0, gt=0, description="at the most between checkpoints")
    device: Literal["auto", "cpu"] = Field("auto", description="auto: a GPU a rank where there are GPUs")
    threads: int = Field(1, ge=1, description="CPU threads a rank")
    loader_workers: int = Field(0, ge=0, description="processes a rank that read ahead")
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**RECIPES.get(values.get("recipe", "default"), {}), **values}


WITHOUT_EFFECT = frozenset({"log_steps", "checkpoint_minutes", "loader_workers"})
"""Training settings that change nothing of the result."""


class Train2DSettings(Settings):
    """The 2D network, donor of the transfer."""

    ranks: int = Field(1, ge=1)
    training: TrainingSettings = TrainingSettings()


class StudySettings(Settings):
    """The grid of 3D trainings."""

    ranks: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    slices: tuple[Side, ...] = Field((16, 32), min_length=1)
    sampling: Sampling = "grouped"
    transfer: Literal["none", "zero", "repeat", "mean", "noise"] = "zero"
    training: TrainingSettings = TrainingSettings()


class EvaluateSettings(Settings):
    """The judging of trained networks on the held-out slices."""

    crop: Side | None = Field(None, ge=192, description="side of the centre that is judged; null: the whole slice")
    device: Literal["auto", "cpu"] = "auto"
    threads: int = Field(2, ge=1)


class RunSettings(Settings):
    """A whole run, from scans to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    runs: Path = Field(Path("runs"), description="folder of all runs")
    data: DataSettings
    train_2d: Train2DSettings = Train2DSettings()
    study: StudySettings = StudySettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for place, ranks, training in self._trainings():
            step = ranks * training.batch
            if training.samples is not None and training.samples % step:
                raise ValueError(
                    f"{place}.training.samples {training.samples} must be a multiple of ranks x batch = {step}"
                )
            if training.norm == "batch" and training.crop and training.batch * (training.crop // SIDE_MULTIPLE) == 1:
                raise ValueError(
                    f"{place}.training: crop 16 and batch 1 leave batch norm one value: take crop 32 or batch 2"
                )
        for name in ("residual", "scaling") if self.study.transfer != "none" else ():
            if getattr(self.study.training, name) != getattr(self.train_2d.training, name):
                raise ValueError(f"study.training.{name} must equal train_2d.training.{name} for a transfer")
        return self

    def _trainings(self) -> list[tuple[str, int, TrainingSettings]]:
        cells = [("study", ranks, self.study.training) for ranks in self.study.ranks]
        return [("train_2d", self.train_2d.ranks, self.train_2d.training), *cells]


class CellSettings(Settings):
    """One training, fully resolved."""

    id: str
    dims: Literal[2, 3]
    ranks: int
    slices: int
    sampling: Sampling
    transfer: Literal["none", "zero", "repeat", "mean", "noise"]
    training: TrainingSettings


def cells_of(run: RunSettings) -> list[CellSettings]:
    """The 2D training first, then the study's grid by slice count and rank count."""
    flat = CellSettings(
        id="2d", dims=2, ranks=run.train_2d.ranks, slices=1, sampling="window",
        transfer="none", training=run.train_2d.training,
    )  # fmt: skip
    study = run.study
    grid = [
        CellSettings(
            id=f"3d-s{slices}-r{ranks}", dims=3, ranks=ranks, slices=slices, sampling=study.sampling,
            transfer=study.transfer, training=study.training,
        )
        for slices in study.slices for ranks in study.ranks
    ]  # fmt: skip
    return [flat, *grid]
