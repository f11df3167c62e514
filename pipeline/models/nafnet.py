"""NAFNet in two and three dimensions (Chen et al. 2022, arXiv:2204.04676).

In 3D rows and columns alone are halved, and depthwise convolutions reach the neighbouring slices: what halves or
doubles keeps its kernels, and a volume that is constant in z gives the output of the 2D sibling.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolution import build_convolution, set_to_zero
from pipeline.models.dimensions import CONVOLUTION
from pipeline.models.gated import GatedBlock
from pipeline.settings.cells import CellSettings


class NAFNet(nn.Module):
    """Blocks at the plane's size and halves of it, and back with skip connections; (batch, 1, sides) to the same shape.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        width: channels at the image's size; each level has twice those above it.
        blocks: of each level on the way down; as many times rows and columns are halved.
        middle: blocks at the lowest level.
        decoder: blocks of each level on the way up.
        residual: the network predicts the correction, output = input + network(input), as published. Its last layer
            then starts at zero, so that the untrained network returns its input.
        crop: side of the planes that it is trained on; None: whole planes.
    """

    def __init__(
        self, dims: int, *, width: int = 32, blocks: Sequence[int] = (2, 2, 4, 8), middle: int = 12, decoder: int = 2,
        residual: bool = False, crop: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual = residual
        widths = [width * 2**level for level in range(len(blocks) + 1)]
        windows = [crop and crop // 2**level for level in range(len(blocks) + 1)]

        def stack(level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(GatedBlock(dims, widths[level], windows[level]) for _ in range(count)))

        halves = (*[1] * (dims - 2), 2, 2)
        self.first, self.last = build_convolution(dims, 1, width, 3), build_convolution(dims, width, 1, 3)
        self.encoder = nn.ModuleList(stack(level, count) for level, count in enumerate(blocks))
        self.down = nn.ModuleList(CONVOLUTION[dims](c, 2 * c, halves, stride=halves) for c in widths[:-1])
        self.middle = stack(len(blocks), middle)
        self.up = nn.ModuleList(nn.Linear(c, 2 * c, bias=False) for c in reversed(widths[1:]))
        self.decoder = nn.ModuleList(stack(level, decoder) for level in reversed(range(len(blocks))))
        if residual:
            set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides); rows and columns must be multiples of 2 to the number of levels."""
        y: Tensor = self.first(x)
        features: list[Tensor] = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            features.append(blocks(y))
            y = down(features[-1])
        y = self.middle(y)
        for up, blocks in zip(self.up, self.decoder, strict=True):
            wide = up(y.movedim(1, -1)).movedim(-1, -3)
            y = blocks(F.pixel_shuffle(wide, 2).movedim(-3, 1) + features.pop())
        y = self.last(y)
        return x + y if self.residual else y


def build(cell: CellSettings) -> NAFNet:
    """Build a cell's network."""
    return NAFNet(cell.dims, residual=cell.training.residual, crop=cell.training.crop, **cell.options)
