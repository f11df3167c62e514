"""Networks by the names that settings give them: what each is called, what it takes and where it is built.

No torch is imported: ``build`` names a function, which is imported when a network is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from data_prep.settings import Settings

Dims = Literal[2, 3]
MONAI = "monai:"
"""Prefix of the networks of MONAI, of which the name of the class follows."""


class NoOptions(Settings):
    """Options of an architecture that has none."""


class REDCNNOptions(Settings):
    """Options of RED-CNN."""

    width: int = Field(96, ge=1, description="channels of the features")


class ResNetOptions(Settings):
    """Options of ResNet."""

    width: int = Field(128, ge=1, description="channels of the features")
    blocks: int = Field(10, ge=1, description="residual blocks, of two convolutions each")


class UNetOptions(Settings):
    """Options of U-Net."""

    width: int = Field(32, ge=16, multiple_of=16, description="channels at the image's size; each level doubles them")
    levels: int = Field(3, ge=1, le=4, description="how often all sides are halved")


class NAFNetOptions(Settings):
    """Options of NAFNet; the defaults are the authors' smaller network for noise of cameras."""

    width: int = Field(32, ge=1, description="channels at the image's size; each level doubles them")
    blocks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (2, 2, 4, 8), min_length=1, max_length=4, description="of each level on the way down"
    )
    middle: int = Field(12, ge=1, description="blocks at the lowest level")
    decoder: int = Field(2, ge=1, description="blocks of each level on the way up")


class MonaiOptions(Settings):
    """Options of a network of MONAI, which are checked where it is built."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Architecture:
    """An architecture that a network of the settings can be of.

    ``title``: its name for people. ``build``: module and function, from a cell's settings to its untrained network,
    which maps (batch, 1, sides) to the same shape. ``options``: what settings may choose
    beside the training. ``check``: module and function that checks options further, or None. ``least_side``: of the
    plane, in pixels. ``checkpoints``: whether it can compute activations again in the backward pass. ``has_norms``:
    whether it has the normalisation that ``training.norm`` chooses. ``is_positive``: whether it ends in a ReLU where it
    does not predict the correction.
    """

    title: str
    build: str
    options: type[Settings] = field(default=NoOptions)
    check: str | None = None
    least_side: int = 16
    checkpoints: bool = False
    has_norms: bool = False
    is_positive: bool = False

    def title_in(self, dims: Dims) -> str:
        """Return the name with the number of dimensions, as in 3D-DDnet."""
        return f"{dims}D-{self.title}"


ARCHITECTURES = {
    "ddnet": Architecture("DDnet", "pipeline.models.ddnet:build", checkpoints=True, has_norms=True),
    "redcnn": Architecture(
        "RED-CNN", "pipeline.models.redcnn:build", options=REDCNNOptions, least_side=21, is_positive=True
    ),
    "cnn10": Architecture("CNN-10", "pipeline.models.cnn10:build"),
    "resnet": Architecture("ResNet", "pipeline.models.resnet:build", options=ResNetOptions),
    "unet": Architecture("U-Net", "pipeline.models.unet:build", options=UNetOptions, has_norms=True),
    "nafnet": Architecture("NAFNet", "pipeline.models.nafnet:build", options=NAFNetOptions),
}


def architecture_of(model: str) -> Architecture:
    """Return the record of the architecture that settings call ``model``: one of ours, or ``monai:NAME``.

    Raises:
        ValueError: there is none of that name.
    """
    if model.startswith(MONAI) and model != MONAI:
        name = model.removeprefix(MONAI)
        return Architecture(
            f"{name} of MONAI",
            "pipeline.models.monai_network:build",
            options=MonaiOptions,
            least_side=32,
            check="pipeline.models.monai_network:check_options",
        )
    if model not in ARCHITECTURES:
        close = get_close_matches(model.lower(), ARCHITECTURES, 1)
        guess = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{model!r} is no network{guess}: take {', '.join(ARCHITECTURES)} or {MONAI}NAME")
    return ARCHITECTURES[model]


def check_options(model: str, dims: Dims, options: Mapping[str, Any]) -> None:
    """Check options that the settings alone cannot check; networks of MONAI import it, and torch, here.

    Raises:
        UserError: the network cannot be built or trained with them.
    """
    check = architecture_of(model).check
    if check is not None:
        resolve_name(check)(model, dims, options)
