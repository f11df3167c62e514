"""Networks by name."""

from collections.abc import Callable

from torch import nn

from pipeline.models.ddnet import DDnet
from pipeline.models.redcnn import REDCNN
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import ModelName


def _ddnet(cell: CellSettings) -> nn.Module:
    how = cell.training
    return DDnet(cell.dims, residual=how.residual, norm=how.norm, checkpointing=how.activation_checkpointing)


def _redcnn(cell: CellSettings) -> nn.Module:
    return REDCNN(residual=cell.training.residual)


MODELS: dict[ModelName, Callable[[CellSettings], nn.Module]] = {"ddnet": _ddnet, "redcnn": _redcnn}


def build_network(cell: CellSettings) -> nn.Module:
    """The cell's untrained network; (batch, 1, sides) to the same shape."""
    return MODELS[cell.model](cell)
