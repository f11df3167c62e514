"""A level of DDnet computed some rows at a time: the same function in a fraction of the memory, without gradients.

At the image's full size, a level holds four copies of its 32 channels. Its computation is local except for group norm,
whose statistics are those of the whole image:

* The first norm's statistics are pooled from those of the stripes, so each stripe is computed twice.
* The second norm's statistics are known only after its convolution of one pixel has to run. That convolution is
  linear: instead of the channels, each group's part of its sum is kept until the statistics are known.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.convolution import NormedConvolution
from pipeline.models.dimensions import CONVOLVE, LINEAR
from pipeline.models.norms import (
    GroupNorm,
    apply_scale_and_shift,
    is_scale_and_shift,
    pool_statistics,
    scale_and_shift_of,
)
from pipeline.models.pointwise import mix_channels

ROWS = 64


def uses_stripes(mix: NormedConvolution, reduce: NormedConvolution, skip: Tensor) -> bool:
    """Whether stripes save memory here and give the same image: no statistics of a batch are needed."""
    local = all(is_scale_and_shift(layer.norm, skip) for layer in (mix, reduce))
    return local and reduce.conv.out_channels == 1 and skip.shape[-2] > ROWS


def run_in_stripes(mix: NormedConvolution, reduce: NormedConvolution, x: Tensor, skip: Tensor) -> Tensor:
    """Compute ``reduce(mix(cat([double(x), skip], 1)))``, where ``double`` interpolates x to the sides of ``skip``.

    (batch, c, sides) and (batch, c, 2 sides) to (batch, 1, 2 sides).
    """
    join = partial(_join, x, skip)
    height = skip.shape[-2]
    stripes = [slice(start, min(start + ROWS, height)) for start in range(0, height, ROWS)]
    scale, shift = scale_and_shift_of(mix.norm, map(join, stripes))
    mixed = (_mix(mix, join, rows, height, scale, shift) for rows in stripes)
    if isinstance(reduce.norm, GroupNorm):
        return _reduce(reduce, reduce.norm, mixed)
    return torch.cat([reduce(y) for y in mixed], -2)


def _join(x: Tensor, skip: Tensor, rows: slice) -> Tensor:
    return torch.cat([_double(x, rows), skip[..., rows, :]], 1)


def _double(x: Tensor, rows: slice) -> Tensor:
    """Interpolate ``rows`` of the image at twice its sides; the first and last lines of both images coincide."""
    sides = [2 * side for side in x.shape[2:]]
    lines = torch.arange(rows.start, rows.stop, dtype=x.dtype, device=x.device) * ((x.shape[-2] - 1) / (sides[-2] - 1))
    low = lines.long().clamp(max=x.shape[-2] - 2)
    voxels, share = x.movedim(1, -1), (lines - low)[:, None, None]
    stripe = torch.lerp(voxels.index_select(-3, low), voxels.index_select(-3, low + 1), share).movedim(-1, 1)
    sides[-2] = len(lines)
    return F.interpolate(stripe, sides, mode=LINEAR[len(sides)], align_corners=True)


def _mix(
    mix: NormedConvolution, join: Callable[[slice], Tensor], rows: slice, height: int, scale: Tensor, shift: Tensor
) -> Tensor:
    """Compute rows of the convolution from these rows and the neighbouring ones; zeros where the image ends."""
    halo = mix.conv.kernel_size[-2] // 2
    padded = slice(max(rows.start - halo, 0), min(rows.stop + halo, height))
    x = apply_scale_and_shift(join(padded), scale, shift)
    missing = padded.start - (rows.start - halo), rows.stop + halo - padded.stop
    padding = [side // 2 for side in mix.conv.kernel_size]
    padding[-2] = 0
    convolved = CONVOLVE[len(padding)](
        F.pad(x, (0, 0, *missing)) if any(missing) else x, mix.conv.weight, mix.conv.bias, padding=padding
    )
    return F.leaky_relu(convolved, mix.slope, inplace=True)


def _reduce(reduce: NormedConvolution, norm: GroupNorm, mixed: Iterable[Tensor]) -> Tensor:
    """Reduce to one channel: each group's part of the sum over channels is kept until its statistics are known."""
    assert reduce.conv.bias is not None
    weight = reduce.conv.weight.flatten()
    by_group = (weight * norm.weight).reshape(norm.num_groups, 1, -1)
    blocks, zeros = torch.block_diag(*by_group), torch.zeros_like(by_group[:, 0, 0])
    sums, parts = [], []
    for y in mixed:
        sums.append(mix_channels(y, blocks, zeros, slope=1))
        parts.append((y.shape[-2], norm.statistics(y)))
    statistics = pool_statistics(parts)
    mean, variance = (moment[:, :: statistics.group_size] for moment in (statistics.mean, statistics.variance))
    rate = torch.rsqrt(variance + norm.eps)
    constant = reduce.conv.bias + weight @ norm.bias - (rate * mean) @ by_group.sum((1, 2))
    image = torch.einsum("sg,sg...->s...", rate, torch.cat(sums, -2))
    image = image.add_(constant.reshape(-1, *[1] * (image.dim() - 1)))
    return F.leaky_relu(image, reduce.slope, inplace=True)[:, None]
