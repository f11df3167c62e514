"""CNN-10: three convolutions (Chen et al. 2017, doi:10.1364/BOE.8.000679)."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolution import build_convolution, set_to_zero
from pipeline.settings.cells import CellSettings

CHANNELS = 1, 64, 32, 1
KERNELS = 9, 3, 5


class CNN10(nn.Module):
    """Convolutions of 9, 3 and 5 pixels a side, with ReLUs between them; (batch, 1, sides) to the same shape.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        residual: the network predicts the correction, output = input + network(input). Its last layer then starts at
            zero, so that the untrained network returns its input.
    """

    def __init__(self, dims: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            build_convolution(dims, channels, CHANNELS[i + 1], KERNELS[i]) for i, channels in enumerate(CHANNELS[:-1])
        )
        if residual:
            set_to_zero(self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides)."""
        *hidden, last = self.layers
        y: Tensor = x
        for layer in hidden:
            y = F.relu(layer(y), inplace=True)
        y = last(y)
        return x + y if self.residual else y


def build(cell: CellSettings) -> CNN10:
    """Build a cell's network."""
    return CNN10(cell.dims, residual=cell.training.residual)
