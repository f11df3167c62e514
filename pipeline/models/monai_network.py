"""Networks of MONAI (``monai.networks.nets``): any that maps images to images of as many pixels.

MONAI is imported where such a network is asked for alone.
"""

import copy
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.log import logger
from pipeline.convolutions.layers import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d
from pipeline.models.convolution import set_to_zero
from pipeline.models.dimensions import CONVOLUTION
from pipeline.settings.architectures import MONAI
from pipeline.settings.cells import CellSettings

FEATURES = 16
"""Channels that a network of MONAI gives."""
SIZES = ("spatial_dims", "in_channels", "out_channels")
"""Arguments that are ours to set, and by which an image-to-image network is recognised."""
SIDES = 16, 32, 48
OURS: dict[type, type] = {
    nn.Conv2d: Conv2d, nn.Conv3d: Conv3d, nn.ConvTranspose2d: ConvTranspose2d, nn.ConvTranspose3d: ConvTranspose3d
}  # fmt: skip


class MonaiNetwork(nn.Module):
    """A network of MONAI that gives features, and a last layer that makes the image of them.

    Its convolutions become layers of ours, which compute by chosen algorithms.

    Args:
        features: the network, (batch, 1, sides) to (batch, 16, sides).
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        residual: the network predicts the correction, output = input + network(input). Its last layer then starts at
            zero, so that the untrained network returns its input.
    """

    def __init__(self, features: nn.Module, dims: int, *, residual: bool = False) -> None:
        super().__init__()
        self.features, self.residual = features, residual
        for layer in features.modules():
            if type(layer) in OURS and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                layer.__class__ = OURS[type(layer)]
        self.last = CONVOLUTION[dims](FEATURES, 1, 1)
        if residual:
            set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides)."""
        y: Tensor = self.last(self.features(x))
        return x + y if self.residual else y


def build(cell: CellSettings) -> MonaiNetwork:
    """Build a cell's network.

    Raises:
        UserError: MONAI is not installed, has no such network, or the network does not fit here.
    """
    return MonaiNetwork(_build(cell.model, cell.dims, cell.options), cell.dims, residual=cell.training.residual)


def check_options(model: str, dims: int, options: Mapping[str, Any]) -> None:
    """Check that the network can be built and trained; raise UserError as :func:`build` does."""
    _check_network(model, dims, _build(model, dims, options))


def _build(model: str, dims: int, options: Mapping[str, Any]) -> nn.Module:
    network = _find(model)
    _check_names(model, network, options)
    try:
        return network(spatial_dims=dims, in_channels=1, out_channels=FEATURES, **options)
    except ImportError as error:  # MONAI looks for packages that few of its networks use where it builds one
        logger.debug(f"{model}: {error}")
        raise UserError(
            f"{model} needs a package that is not installed: take another network, or install what MONAI names for it "
            "(--verbose shows its own message)"
        ) from error
    except Exception as error:  # whatever MONAI raises for options that do not fit
        logger.debug(f"{model}: {error}")
        chosen = ", ".join(f"{name}: {option}" for name, option in options.items()) or "none"
        valid = ", ".join(name for name in _arguments(network) if name not in SIZES)
        raise UserError(
            f"{model} takes no such options in {dims} dimensions: {chosen}; valid: {valid}, with the values that MONAI "
            "documents (--verbose shows its own message)"
        ) from error


def _find(model: str) -> type[nn.Module]:
    """Return the class of MONAI; raise UserError, which names close ones, if there is none."""
    try:
        from monai.networks import nets
    except ImportError as error:
        raise UserError(f"{model} needs MONAI: pip install 'quarterdose[monai]'") from error
    classes: dict[str, type[nn.Module]] = {
        network.__name__: network for network in vars(nets).values() if _maps_images(network)
    }
    name = model.removeprefix(MONAI)
    if name not in classes:
        names = get_close_matches(name, classes, 3, 0.4) or sorted(classes)
        raise UserError(f"MONAI has no image-to-image network {name}: take one such as {', '.join(names)}")
    return classes[name]


def _maps_images(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, nn.Module) and set(SIZES) <= set(_arguments(member))


def _arguments(network: type) -> Mapping[str, inspect.Parameter]:
    arguments = inspect.signature(network).parameters
    return {name: arguments[name] for name in arguments if arguments[name].kind is not inspect.Parameter.VAR_KEYWORD}


def _check_names(model: str, network: type, options: Mapping[str, Any]) -> None:
    arguments = {name: argument for name, argument in _arguments(network).items() if name not in SIZES}
    needed = [name for name, argument in arguments.items() if argument.default is inspect.Parameter.empty]
    for name in options:
        if name in SIZES:
            raise UserError(f"{model}: the option {name} is not to be set, since images have one channel in and out")
        if name not in arguments:
            raise UserError(f"{model} has no option {name}; valid: {', '.join(arguments)}")
    missing = [name for name in needed if name not in options]
    if missing:
        raise UserError(f"{model} needs the options {', '.join(missing)}; valid: {', '.join(arguments)}")


def _check_network(model: str, dims: int, network: nn.Module) -> None:
    """Raise UserError if the network does not keep the sides of images, or does not train as a whole."""
    sides = SIDES[-dims:]
    blank = copy.deepcopy(network).to("meta")  # holds no numbers: nothing is computed but shapes
    try:
        features = blank(torch.empty(1, 1, *sides, device="meta"))
    except Exception as error:  # whatever MONAI and torch raise for sides that do not fit
        logger.debug(f"{model}: {error}")
        raise UserError(
            f"{model} takes no images of {_by(sides)}, as it must: fewer levels or strides may help "
            "(--verbose shows MONAI's own message)"
        ) from error
    if not isinstance(features, Tensor):
        raise UserError(f"{model} gives several outputs: choose options without deep supervision, or another network")
    if features.shape != (1, FEATURES, *sides):
        raise UserError(f"{model} makes {_by(features.shape[2:])} of images of {_by(sides)}: it must keep the sides")
    features.sum().backward()
    idle = [name for name, parameter in blank.named_parameters() if parameter.grad is None]
    if idle:
        raise UserError(f"{model} has {len(idle)} weights without part in its output, first {idle[0]}: leave them out")


def _by(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides)) or "no image"
