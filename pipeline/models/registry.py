"""Networks by name."""

from collections.abc import Callable

from torch import nn

from pipeline.config import CellSettings, ModelName
from pipeline.models.ddnet import DDnet


def _ddnet(cell: CellSettings) -> nn.Module:
    how = cell.training
    return DDnet(cell.dims, residual=how.residual, norm=how.norm, checkpointing=how.activation_checkpointing)


MODELS: dict[ModelName, Callable[[CellSettings], nn.Module]] = {"ddnet": _ddnet}


def build_network(cell: CellSettings) -> nn.Module:
    """The cell's untrained network; (batch, 1, sides) to the same shape."""
    return MODELS[cell.model](cell)
