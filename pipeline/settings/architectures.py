"""Networks by the names that settings give them: what each is called, what it takes and where it is built.

No torch is imported: ``build`` names a function, which is imported when a network is built.
"""

from dataclasses import dataclass, field
from typing import Literal

from data_prep.settings import Settings

Dims = Literal[2, 3]


class NoOptions(Settings):
    """Options of an architecture that has none."""


@dataclass(frozen=True)
class Architecture:
    """An architecture that a network of the settings can be of.

    ``title``: its name for people. ``build``: module and function, from a cell's settings to its untrained network,
    which maps (batch, 1, sides) to the same shape. ``dims``: in which it exists. ``options``: what settings may choose
    beside the training. ``least_side``: of the plane, in pixels. ``checkpoints``: whether it can compute activations
    again in the backward pass. ``is_positive``: whether it ends in a ReLU where it does not predict the correction.
    """

    title: str
    build: str
    dims: tuple[Dims, ...] = (2, 3)
    options: type[Settings] = field(default=NoOptions)
    least_side: int = 16
    checkpoints: bool = False
    is_positive: bool = False


ARCHITECTURES = {
    "ddnet": Architecture("DDnet", "pipeline.models.ddnet:build", checkpoints=True),
    "redcnn": Architecture(
        "RED-CNN", "pipeline.models.redcnn:build", dims=(2,), least_side=21, is_positive=True
    ),
}  # fmt: skip
