"""Small cells for tests of training."""

from typing import Any

from pipeline.settings.cells import CellSettings
from pipeline.settings.training import TrainingSettings


def cell(dims: int = 3, ranks: int = 1, slices: int = 16, **training: Any) -> CellSettings:
    values = {
        "norm": "frozen",
        "epochs": 2,
        "samples": 4,
        "batch": 1,
        "crop": 16,
        "validation_samples": 3,
        "log_steps": 1,
        **training,
    }
    return CellSettings(
        id="cell", dims=dims, ranks=ranks, slices=slices if dims == 3 else 1, sampling="window",
        validated=slices, validated_sampling="window", transfer="none", training=TrainingSettings(**values),
    )  # fmt: skip
