"""Networks by the names that settings give them."""

from collections.abc import Callable

from torch import nn

from pipeline.intensity import CHEST_SD
from pipeline.models.ddnet import DDnet
from pipeline.models.redcnn import REDCNN
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import ModelName


def _build_ddnet(cell: CellSettings) -> nn.Module:
    training = cell.training
    return DDnet(
        cell.dims, residual=training.residual, norm=training.norm, input_sd=CHEST_SD[training.scaling],
        checkpointing=training.activation_checkpointing,
    )  # fmt: skip


def _build_redcnn(cell: CellSettings) -> nn.Module:
    return REDCNN(residual=cell.training.residual)


MODELS: dict[ModelName, Callable[[CellSettings], nn.Module]] = {"ddnet": _build_ddnet, "redcnn": _build_redcnn}


def build_network(cell: CellSettings) -> nn.Module:
    """Build the cell's untrained network, which maps (batch, 1, sides) to the same shape."""
    return MODELS[cell.model](cell)
