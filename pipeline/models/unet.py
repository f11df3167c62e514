"""U-Net in two and three dimensions (Ronneberger et al. 2015, arXiv:1505.04597; Cicek et al. 2016, arXiv:1606.06650).

Convolutions are padded, so that the image keeps its sides; each follows its norm, as in our DDnet. Sides are doubled by
interpolation: a transposed convolution would not give a volume that is constant in z the output of its 2D sibling.
"""

from torch import Tensor, nn

from pipeline.models.convolution import (
    SLOPE,
    NormedConvolution,
    build_convolution,
    convolve_and_activate,
    set_to_zero,
)
from pipeline.models.pointwise import mix_channels
from pipeline.models.resampling import double_beside, halve
from pipeline.settings.cells import CellSettings
from pipeline.settings.training import Norm


def _pair(dims: int, channels_in: int, channels_out: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        NormedConvolution(dims, channels_in, channels_out, 3, norm),
        NormedConvolution(dims, channels_out, channels_out, 3, norm),
    )


class UNet(nn.Module):
    """Pairs of convolutions at the image's size and ``levels`` halves of it; (batch, 1, sides) to the same shape.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        width: channels at the image's size; each level has twice those above it.
        levels: how often all sides are halved; they must be multiples of 2**levels.
        residual: the network predicts the correction, output = input + network(input). Its last layer then starts at
            zero, so that the untrained network returns its input.
        norm: normalisation of the channels. The image itself meets none, so that a sample keeps its HU and its noise.
    """

    def __init__(
        self, dims: int, *, width: int = 32, levels: int = 3, residual: bool = False, norm: Norm = "group"
    ) -> None:
        super().__init__()
        self.residual = residual
        widths = [width * 2**level for level in range(levels)]
        self.first = build_convolution(dims, 1, width, 3)
        self.second = NormedConvolution(dims, width, width, 3, norm)
        self.down = nn.ModuleList(_pair(dims, channels, 2 * channels, norm) for channels in widths)
        self.up = nn.ModuleList(_pair(dims, 3 * channels, channels, norm) for channels in reversed(widths))
        self.last = build_convolution(dims, width, 1, 1)
        if residual:
            set_to_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides)."""
        features = [self.second(convolve_and_activate(self.first, x, self.first.weight, SLOPE))]
        for down in self.down:
            features.append(down(halve(features[-1])))
        y = features.pop()
        for up in self.up:
            y = up(double_beside(y, features.pop()))
        assert self.last.bias is not None
        y = mix_channels(y, self.last.weight.flatten(1), self.last.bias, slope=1)
        return x + y if self.residual else y


def build(cell: CellSettings) -> UNet:
    """Build a cell's network."""
    return UNet(cell.dims, residual=cell.training.residual, norm=cell.training.norm, **cell.options)
