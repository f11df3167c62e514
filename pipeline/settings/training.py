"""Settings of one network's training, and recipes, which set several of them by one name."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from data_prep.setting_types import Doses, Threads
from data_prep.settings import Settings
from pipeline.intensity import ScalingName

SIDE_MULTIPLE = 16
"""Sides must be a multiple of this: DDnet halves each side four times."""

PLANE_SIDE = 512
"""Of the planes of prepared scans."""

LARGEST_SEED = 2**63 - 1
"""That torch takes."""

Side = Annotated[int, Field(ge=SIDE_MULTIPLE, multiple_of=SIDE_MULTIPLE)]
Crop = Annotated[Side, Field(le=PLANE_SIDE)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Norm = Literal["batch", "sync", "frozen", "group"]
Similarity = Literal["wang", "authors"]

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
        "learning_rate": 1e-3,
        "norm": "batch",
        "epochs": 50,
        "crop": None,
        "batch": 1,
        "flips": False,
        "average": None,
    },
}


class TrainingSettings(Settings):
    """Settings of one network's training; ``recipe`` chooses the defaults."""

    recipe: Literal["default", "paper"] = Field(
        "default", description="defaults of the other keys; paper: those of the 3D-DDnet paper, "
        + ", ".join(f"{key} {json.dumps(setting)}" for key, setting in RECIPES["paper"].items()).replace('"', ""),
    )  # fmt: skip
    scaling: ScalingName = Field(
        "hu", description="of intensities: hu: in hundreds of HU; unit: -1024 to 3072 HU to 0 to 1; minmax: each "
        "volume's own range to 0 to 1",
    )  # fmt: skip
    residual: bool = Field(True, description="the network predicts the correction")
    norm: Norm = Field(
        "group",
        description="group: of each sample, sixteen channels at a time; batch: of the rank's own samples; sync: of all "
        "ranks' samples; frozen: running statistics stay as they are",
    )
    ms_ssim: Similarity = Field(
        "wang", description="of the loss: as in Wang 2003, or as the paper's authors compute it"
    )
    ms_ssim_weight: float = Field(0.1, ge=0, description="loss = MSE + this * (1 - MS-SSIM)")
    learning_rate: float = Field(1e-3, gt=0, description="at its height, for one rank's batch")
    rate_rule: Literal["none", "linear", "sqrt"] = Field(
        "none", description="growth of the learning rate with the effective batch over one rank's batch"
    )
    schedule: Literal["cosine", "exponential"] = Field("cosine", description="to zero, or x 0.8 an epoch")
    warmup: float = Field(
        0.0, ge=0, le=1, description="share of the steps over which the rate rises to its full height"
    )
    epochs: int = Field(50, ge=1, description="passes over the samples")
    samples: int | None = Field(None, ge=1, description="an epoch; one a training volume if null")
    work: Literal["strong", "weak"] = Field(
        "strong", description="strong: the samples are shared among the ranks; weak: each rank sees so many"
    )
    batch: int = Field(1, ge=1, description="samples that a rank takes at once")
    accumulation: int = Field(
        1, ge=1, description="batches a rank and step; effective batch = ranks x batch x accumulation"
    )
    crop: Crop | None = Field(64, description="side in the plane, pixels; null: the whole slice")
    doses: Doses | None = Field(
        None,
        min_length=1,
        description="of the stored low doses, or with fresh any, those to train on; null: all stored",
    )
    fresh: bool = Field(
        False, description="the low dose is simulated while training, with new noise in every epoch; else as stored"
    )
    tell_dose: bool = Field(
        False, description="intensities are scaled so that noise is as strong at every dose; denoise then takes --dose"
    )
    flips: bool = Field(
        False, description="samples are mirrored and turned in the plane: all symmetries of the square, slices in order"
    )
    average: float | None = Field(
        None, gt=0, le=0.5, description="mean age, as a share of the steps so far, of the averaged weights that are "
        "judged and exported; null: those of the last step"
    )  # fmt: skip
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network's arithmetic; auto: bfloat16 on GPUs, float32 on CPUs"
    )
    activation_checkpointing: bool = Field(
        False, description="dense and up blocks are computed again in the backward pass: less memory, more time"
    )
    compile: bool = Field(False, description="torch.compile: minutes at the start; needs a C++ compiler on CPUs")
    cuda_graphs: bool = Field(
        False, description="on a GPU the host launches a network's pass at once, where small batches wait for it"
    )
    gradients: Literal["full", "bfloat16"] = Field(
        "full", description="of the numbers in which they travel between ranks; full: float32"
    )
    validation: Literal["crops", "scans"] = Field(
        "crops", description="crops: validation_samples of them; scans: the whole validation part, whole planes"
    )
    validation_samples: int = Field(8, ge=1, description="crops, or volumes of them, a validation")
    validation_epochs: int = Field(1, ge=1, description="from one validation to the next; the last step has one always")
    patience: int | None = Field(
        None, ge=1, description="the training stops after so many validations without a smaller error; null: never"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights that are judged and exported: those of the last step, or the best validated"
    )
    log_steps: int = Field(10, ge=1, description="steps a line of metrics.jsonl")
    checkpoint_minutes: float = Field(5.0, gt=0, description="at the most between checkpoints")
    checkpoint_steps: int | None = Field(None, ge=1, description="at the most between checkpoints")
    checkpoints_kept: int = Field(2, ge=1, description="the newest so many, and the best validated")
    device: Literal["auto", "cpu"] = Field("auto", description="auto: a GPU a rank where there are GPUs")
    threads: Threads = Field(1, description="CPU threads a rank")
    loader_workers: int | None = Field(
        None, ge=0, description="processes a rank that read ahead, 0: a thread; null: as many as the cores allow, <= 4"
    )
    local_disk_gib: float | None = Field(
        None, gt=0, description="volumes are copied to $TMPDIR of the ranks' node if they take no more; null: never"
    )
    seed: Seed = Field(0, description="of weights, samples, crops and flips")

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        recipe = values.get("recipe", "default")
        return {**(RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}), **values}

    @model_validator(mode="after")
    def _check_norm(self) -> Self:
        if self.norm in ("batch", "sync") and self.crop and self.batch * (self.crop // SIDE_MULTIPLE) == 1:
            raise ValueError(
                "crop 16 and batch 1 leave batch norm one value: take crop 32, batch 2 or norm frozen or group"
            )
        return self

    @model_validator(mode="after")
    def _check_graphs(self) -> Self:
        others = {
            "compile: true": self.compile,
            "norm: sync": self.norm == "sync",
            "accumulation": self.accumulation > 1,
        }
        for name, clashes in others.items():
            if self.cuda_graphs and clashes:
                raise ValueError(f"cuda_graphs and {name} exclude each other: take one of them")
        return self

    def lowers_precision(self, *, gpu: bool) -> bool:
        """Whether the network's arithmetic is in bfloat16."""
        return gpu if self.precision == "auto" else self.precision == "bfloat16"


WITHOUT_EFFECT = frozenset(
    {
        "log_steps",
        "checkpoint_minutes",
        "checkpoint_steps",
        "checkpoints_kept",
        "loader_workers",
        "local_disk_gib",
        "cuda_graphs",
    }
)
"""Training settings that do not change the result."""
