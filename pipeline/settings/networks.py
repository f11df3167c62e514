"""Settings of the networks that a run trains."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from data_prep.setting_types import InputPath
from data_prep.settings import Settings
from data_prep.settings_file import describe_faults
from pipeline.settings.architectures import ARCHITECTURES, MONAI, Architecture, Dims, architecture_of
from pipeline.settings.names import CLASSICAL_TITLES
from pipeline.settings.training import TrainingSettings

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,31}")
DEFAULT_NETWORKS: dict[str, Any] = {"2d": {"model": "ddnet", "dims": 2}, "3d": {"model": "ddnet", "dims": 3}}


class NetworkSettings(Settings):
    """Settings of one network: its architecture and its training."""

    model: str = Field(description=f"its architecture: {', '.join(ARCHITECTURES)}, {MONAI}NAME")
    dims: Dims = Field(description="2: slices, 3: volumes")
    options: dict[str, Any] = Field({}, validate_default=True, description="of the architecture, such as its width")
    donor: str | None = Field(
        None, description="id of the 2D network that a 3D one starts from; null: the only one of model and options"
    )
    donor_file: InputPath | None = Field(
        None, description="2D weights in their authors' names (.npz, .pt) to start from instead"
    )
    ranks: int = Field(1, ge=1, description="of its training, where no grid of the study names the network")
    training: TrainingSettings = Field(
        TrainingSettings(), description="what differs from study.training, which all networks share"
    )

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        architecture_of(model)
        return model

    @field_validator("options")
    @classmethod
    def _complete(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Check the options, and fill in the defaults of the others."""
        return _checked_options(architecture_of(info.data["model"]), options) if "model" in info.data else options

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.dims == 2 and (self.donor or self.donor_file):
            raise ValueError("donor and donor_file are of 3D networks: a 2D one starts from random weights")
        return self

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        architecture, training = self.architecture, self.training
        if training.activation_checkpointing and not architecture.checkpoints:
            raise ValueError(
                f"training.activation_checkpointing has no effect on {architecture.title}: leave it out, or set it to "
                "false"
            )
        if training.crop and training.crop < architecture.least_side:
            raise ValueError(
                f"training.crop {training.crop} is too small: {architecture.title} takes {architecture.least_side} or "
                "more"
            )
        if architecture.is_positive and training.scaling == "hu" and not training.residual:
            raise ValueError(
                f"training: {architecture.title} without residual ends in a ReLU and gives no HU below 0: set scaling "
                "to unit or minmax"
            )
        return self

    @property
    def architecture(self) -> Architecture:
        """The architecture's record."""
        return architecture_of(self.model)


def _checked_options(architecture: Architecture, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return architecture.options.model_validate(options).model_dump(mode="json")
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] != "extra_forbidden":
            raise ValueError(describe_faults(error, architecture.options)) from error
        valid = ", ".join(architecture.options.model_fields) or "none"
        raise ValueError(f"{fault['loc'][0]}: {architecture.title} has no such option; valid: {valid}") from error


def check_ids(networks: Mapping[str, object]) -> None:
    """Check the ids of networks, which become names of files and beginnings of the ids of trainings.

    Raises:
        ValueError: one is not allowed.
    """
    for network in networks:
        if not _ID.fullmatch(str(network)):
            raise ValueError(
                f"{network!r} is no id of a network: at most 32 letters, digits and underscores, the first a "
                "letter or digit"
            )
        if network in CLASSICAL_TITLES:
            raise ValueError(f"{network!r} is the name of a classical denoiser: give the network another id")


def donor_of(network: str, networks: Mapping[str, NetworkSettings]) -> str | None:
    """Return the id of the 2D network from which a 3D one starts, None where there is none.

    Raises:
        ValueError: the settings name one that does not fit, or several fit.
    """
    deep = networks[network]
    if deep.dims == 2:
        return None
    fitting = [name for name, flat in networks.items()
               if flat.dims == 2 and flat.model == deep.model and flat.options == deep.options]  # fmt: skip
    if deep.donor is not None:
        if deep.donor not in fitting:
            raise ValueError(
                f"networks.{network}.donor: {deep.donor} is no 2D network of model {deep.model} with the same options; "
                f"those are: {', '.join(fitting) or 'none'}"
            )
        return deep.donor
    if len(fitting) > 1:
        raise ValueError(f"networks.{network} could start from {' or '.join(fitting)}: name the one as its donor")
    return fitting[0] if fitting else None
