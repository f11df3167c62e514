"""Networks built from the settings of cells."""

from pkgutil import resolve_name

from torch import nn

from pipeline.settings.architectures import architecture_of
from pipeline.settings.cells import CellSettings


def build_network(cell: CellSettings) -> nn.Module:
    """Build the cell's untrained network, which maps (batch, 1, sides) to the same shape."""
    network = resolve_name(architecture_of(cell.model).build)(cell)
    assert isinstance(network, nn.Module)
    return network
