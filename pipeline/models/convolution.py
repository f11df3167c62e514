"""Convolutions in two and three dimensions, and those of a normalised image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.norms import BatchNorm, ChannelNorm, make_norm, normalised
from pipeline.models.pointwise import mix_channels, mix_normed_channels
from pipeline.settings.training import Norm

SLOPE = 0.01
Convolution = nn.Conv2d | nn.Conv3d
_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


def convolution(dims: int, channels_in: int, channels_out: int, kernel: int) -> Convolution:
    """One that keeps the sides; ``kernel`` is odd."""
    layer: Convolution = _CONV[dims](channels_in, channels_out, kernel, padding=kernel // 2)
    return layer


def convolve(layer: Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer with other weights."""
    y: Tensor = layer._conv_forward(x, weight, bias)
    return y


class NormedConvolution(nn.Module):
    """Normalisation, then convolution, then leaky ReLU (or none, if ``linear``)."""

    norm: ChannelNorm
    conv: Convolution

    def __init__(
        self, dims: int, channels_in: int, channels_out: int, kernel: int, norm: Norm, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels_in)
        self.conv = convolution(dims, channels_in, channels_out, kernel)
        self.pointwise, self.slope = kernel == 1, 1.0 if linear else SLOPE

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, sides) to (batch, out, sides); without gradients ``x`` may be lost."""
        if self.pointwise:
            return self._mixed(x)
        y: Tensor = self.conv(normalised(self.norm, x))
        return F.leaky_relu(y, self.slope, inplace=True)

    def _mixed(self, x: Tensor) -> Tensor:
        """Without a border to pad, a norm that is fixed is a part of the convolution's weights."""
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        assert bias is not None
        if not self.norm.fixed:
            return mix_normed_channels(x, self.norm, weight, bias, self.slope)
        assert isinstance(self.norm, BatchNorm)
        scale, shift = self.norm.scale_and_shift()
        return mix_channels(x, weight * scale, torch.addmv(bias, weight, shift), self.slope)
