"""ResNet: residual blocks at the image's full size, without norms (as EDSR, Lim et al. 2017, arXiv:1707.02921).

Ten blocks of 128 channels are those of Missert et al. 2018, which have batch norm and convolutions of groups besides.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolution import build_convolution, set_to_zero
from pipeline.settings.cells import CellSettings


class Block(nn.Module):
    """Two convolutions with a ReLU between them, added to the block's input."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.first = build_convolution(dims, width, width, 3)
        self.second = build_convolution(dims, width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, sides) to the same shape."""
        y: Tensor = self.second(F.relu(self.first(x), inplace=True))
        return y.add_(x)


class ResNet(nn.Module):
    """A convolution, blocks, and a convolution to the image; (batch, 1, sides) to the same shape.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        width: channels of the features.
        blocks: how many.
        residual: the network predicts the correction, output = input + network(input). Its last layer then starts at
            zero, so that the untrained network returns its input.
    """

    def __init__(self, dims: int, *, width: int = 128, blocks: int = 10, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.first = build_convolution(dims, 1, width, 3)
        self.blocks = nn.ModuleList(Block(dims, width) for _ in range(blocks))
        self.last = build_convolution(dims, width, 1, 3)
        if residual:
            set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides)."""
        y: Tensor = self.first(x)
        for block in self.blocks:
            y = block(y)
        y = self.last(y)
        return x + y if self.residual else y


def build(cell: CellSettings) -> ResNet:
    """Build a cell's network."""
    return ResNet(cell.dims, residual=cell.training.residual, **cell.options)
