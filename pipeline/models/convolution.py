"""Convolutions in two and three dimensions, alone and behind a normalisation."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.convolutions.layers import Conv2d, Conv3d
from pipeline.kernels.activation import add_bias_and_activate
from pipeline.kernels.choice import uses_kernels
from pipeline.kernels.operators import as_image
from pipeline.models.dimensions import CONVOLUTION
from pipeline.models.normed import convolution_of, map_normed, product_of
from pipeline.models.norms import BatchNorm, ChannelNorm, GroupNorm, build_norm, normalise
from pipeline.models.pointwise import mix_channels, mix_normed_channels
from pipeline.settings.training import Norm

SLOPE = 0.01
Convolution = Conv2d | Conv3d


def build_convolution(dims: int, channels_in: int, channels_out: int, kernel: int) -> Convolution:
    """Build a convolution that keeps the sides; ``kernel`` is odd."""
    layer: Convolution = CONVOLUTION[dims](channels_in, channels_out, kernel, padding=kernel // 2)
    return layer


def set_to_zero(layer: nn.Module) -> None:
    """Let the layer return zeros, as the last layer of an untrained network that predicts the correction."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def convolve(layer: Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run the layer with ``weight`` and ``bias`` in place of its parameters."""
    y: Tensor = layer._conv_forward(x, weight, bias)
    return y


def convolve_and_activate(layer: Convolution, x: Tensor, weight: Tensor, slope: float) -> Tensor:
    """Run the layer with ``weight`` in place of its own, then leaky ReLU."""
    if uses_kernels(x):
        assert layer.bias is not None
        return add_bias_and_activate(convolve(layer, x, weight, None), layer.bias, slope)
    return F.leaky_relu(convolve(layer, x, weight, layer.bias), slope, inplace=True)


class NormedConvolution(nn.Module):
    """Normalisation, then convolution, then leaky ReLU (without the ReLU if ``linear``)."""

    norm: ChannelNorm
    conv: Convolution

    def __init__(
        self, dims: int, channels_in: int, channels_out: int, kernel: int, norm: Norm, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm, channels_in)
        self.conv = build_convolution(dims, channels_in, channels_out, kernel)
        self.is_pointwise, self.slope = kernel == 1, 1.0 if linear else SLOPE

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, sides) to (batch, out, sides); without gradients ``x`` may be overwritten."""
        if isinstance(self.norm, GroupNorm) and uses_kernels(x):
            return self._run_kernels(x, self.norm)
        if self.is_pointwise:
            return self._mix(x)
        return convolve_and_activate(self.conv, normalise(self.norm, x), self.conv.weight, self.slope)

    def _run_kernels(self, x: Tensor, norm: GroupNorm) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        if not self.is_pointwise:
            y = map_normed(x, norm, weight, partial(convolution_of, self.conv))
            return add_bias_and_activate(y, bias, self.slope)
        rows = add_bias_and_activate(map_normed(x, norm, weight.flatten(1), product_of), bias, self.slope)
        return as_image(rows.reshape(len(x), -1, rows.shape[1]), x.shape[2:])

    def _mix(self, x: Tensor) -> Tensor:
        """Run a convolution of one pixel. It pads nothing, so its weights can include a norm of fixed statistics."""
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        assert bias is not None
        if not self.norm.is_fixed:
            return mix_normed_channels(x, self.norm, weight, bias, self.slope)
        assert isinstance(self.norm, BatchNorm)
        scale, shift = self.norm.scale_and_shift()
        return mix_channels(x, weight * scale, torch.addmv(bias, weight, shift), self.slope)
