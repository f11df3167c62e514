"""DDnet in two and three dimensions.

The 2D network: Zhang et al. 2018 (doi:10.1109/TMI.2018.2823083). The 3D network: the 3D-DDnet paper (ICCABS 2023).
Their transposed convolutions of stride 1 are stored as the plain convolutions that compute the same: kernels flipped,
channel axes swapped.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_prep.errors import UserError
from pipeline.convolutions.memory_format import channels_last
from pipeline.intensity import CHEST_SD
from pipeline.models.convolution import (
    SLOPE,
    Convolution,
    NormedConvolution,
    build_convolution,
    convolve_and_activate,
    set_to_zero,
)
from pipeline.models.norms import ChannelNorm, build_norm, fixed_norm, held_statistics
from pipeline.models.resampling import double_beside, halve
from pipeline.models.stripes import run_in_stripes, uses_stripes
from pipeline.settings.cells import CellSettings
from pipeline.settings.training import SIDE_MULTIPLE, Norm

FILTERS = 16
GROWTH = 16
BOTTLENECK = 64
DENSE_LAYERS = 4
LEVELS = 4
assert 2**LEVELS == SIDE_MULTIPLE


class DenseLayer(nn.Module):
    """Bottleneck of 64 channels, then a convolution of 5^d pixels to 16 channels, which join the input."""

    def __init__(self, dims: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.squeeze = NormedConvolution(dims, channels, BOTTLENECK, 1, norm)
        self.grow = NormedConvolution(dims, BOTTLENECK, GROWTH, 5, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, c, sides) to (batch, c + 16, sides)."""
        return torch.cat([x, self.grow(self.squeeze(x))], 1)


class Down(nn.Module):
    """Max pooling to half the sides, a dense block, then a convolution of one pixel back to 16 channels."""

    def __init__(self, dims: int, norm: Norm) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseLayer(dims, FILTERS + GROWTH * j, norm) for j in range(DENSE_LAYERS)))
        self.transition = NormedConvolution(dims, FILTERS + GROWTH * DENSE_LAYERS, FILTERS, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 16, sides) to (batch, 16, sides / 2)."""
        y: Tensor = self.transition(self.dense(halve(x)))
        return y


class Up(nn.Module):
    """Interpolation to twice the sides, the skip connection, then two convolutions."""

    def __init__(self, dims: int, channels_out: int, norm: Norm, *, linear: bool) -> None:
        super().__init__()
        self.mix = NormedConvolution(dims, 2 * FILTERS, 2 * FILTERS, 5, norm)
        self.reduce = NormedConvolution(dims, 2 * FILTERS, channels_out, 1, norm, linear=linear)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (batch, 16, sides) and the skip connection, (batch, 16, 2 sides), to (batch, out, 2 sides)."""
        if uses_stripes(self.mix, self.reduce, skip):
            return run_in_stripes(self.mix, self.reduce, x, skip)
        y: Tensor = self.reduce(self.mix(double_beside(x, skip)))
        return y


class DDnet(nn.Module):
    """DenseNet and deconvolution network; (batch, 1, sides) to the same shape.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        residual: the network predicts the correction, output = input + network(input). Its last layer is then
            linear and starts at zero, so that the untrained network returns its input.
        norm: normalisation of the channels.
        input_sd: standard deviation of the input, by which group norm's first layer divides. One channel's own
            statistics would take from each sample what its HU and its noise are.
        checkpointing: each dense and up block is computed again in the backward pass, so that its inner features
            need no memory until then.
    """

    norm: ChannelNorm
    stem: Convolution

    def __init__(
        self, dims: int, *, residual: bool = False, norm: Norm = "batch", input_sd: float = 1.0,
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dims, self.residual, self.checkpointing = dims, residual, checkpointing
        self.norm = fixed_norm(input_sd) if norm == "group" else build_norm(norm, 1)
        self.stem = build_convolution(dims, 1, FILTERS, 7)
        self.down = nn.ModuleList(Down(dims, norm) for _ in range(LEVELS))
        last = LEVELS - 1
        self.up = nn.ModuleList(
            Up(dims, 1 if i == last else FILTERS, norm, linear=residual and i == last) for i in range(LEVELS)
        )
        if residual:
            set_to_zero(self.up[last].get_submodule("reduce.conv"))

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides); every side must be a multiple of 16.

        Raises:
            UserError: a side is not a multiple of 16.
        """
        check_sides(x.shape[2:])
        features = [self._run_stem(x)]
        for down in self.down:
            features.append(self._run_block(down, features[-1]))
        y = features.pop()
        for up in self.up:
            y = self._run_block(up, y, features.pop())
        return x + y if self.residual else y

    def _run_stem(self, x: Tensor) -> Tensor:
        """Run the first norm and convolution, with its leaky ReLU.

        The norm's scale and shift become part of the convolution's weights. The shift acts on a second channel of
        ones, which is padded with zeros like the image. So the backward pass reaches both without going through the
        convolution to its input, which for one input channel takes a tenth of a training step on CPUs.
        """
        standard = self.norm.standardise(x)
        channels = torch.cat([standard, torch.ones_like(standard)], 1).contiguous(
            memory_format=channels_last(self.dims)
        )
        weight = torch.cat([self.stem.weight * self.norm.weight, self.stem.weight * self.norm.bias], 1)
        return convolve_and_activate(self.stem, channels, weight, SLOPE)

    def _run_block(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            y: Tensor = block(*inputs)
        else:
            contexts = partial(_checkpoint_contexts, block)
            y = checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)
        return y


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the block's forward pass and of its repetition in the backward pass."""
    return nullcontext(), held_statistics(block)


def check_sides(sides: tuple[int, ...]) -> None:
    """Raise UserError for sides that cannot be halved four times."""
    if any(side % SIDE_MULTIPLE for side in sides):
        raise UserError(f"sides {tuple(sides)} cannot go through DDnet: each must be a multiple of {SIDE_MULTIPLE}")


def build(cell: CellSettings) -> DDnet:
    """Build a cell's network."""
    training = cell.training
    return DDnet(
        cell.dims, residual=training.residual, norm=training.norm, input_sd=CHEST_SD[training.scaling],
        checkpointing=training.activation_checkpointing,
    )  # fmt: skip
