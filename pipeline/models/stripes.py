"""A level of DDnet some rows at a time: the same function in a part of the memory. Without gradients.

At the image's own size a level has its 32 channels four times over. What needs them is local but for group norm, whose
statistics are those of the whole image. The first norm's are pooled from those of the stripes, which are made twice.
The second's come too late for its convolution of one pixel; but that is linear, so instead of the channels each
group's part of the sum is kept until the statistics are known.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.convolution import NormedConvolution
from pipeline.models.norms import GroupNorm, by_scale_and_shift, pooled, scale_and_shift, scaled_and_shifted
from pipeline.models.pointwise import mix_channels

ROWS = 64
LINEAR = {2: "bilinear", 3: "trilinear"}
_CONVOLVE: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}


def in_stripes(mix: NormedConvolution, reduce: NormedConvolution, skip: Tensor) -> bool:
    """Whether there is anything to win, and nothing that only the whole image has to heed."""
    own = all(by_scale_and_shift(layer.norm, skip) for layer in (mix, reduce))
    return own and reduce.conv.out_channels == 1 and skip.shape[-2] > ROWS


def by_stripes(mix: NormedConvolution, reduce: NormedConvolution, x: Tensor, skip: Tensor) -> Tensor:
    """``reduce(mix(cat([doubled(x), skip], 1)))``: (batch, c, sides) and (batch, c, 2 sides) to (batch, 1, 2 sides)."""
    joined = partial(_joined, x, skip)
    every = [slice(start, min(start + ROWS, skip.shape[-2])) for start in range(0, skip.shape[-2], ROWS)]
    scale, shift = scale_and_shift(mix.norm, map(joined, every))
    mixed = (_mixed(mix, joined, rows, skip.shape[-2], scale, shift) for rows in every)
    if isinstance(reduce.norm, GroupNorm):
        return _reduced(reduce, reduce.norm, mixed)
    return torch.cat([reduce(y) for y in mixed], -2)


def _joined(x: Tensor, skip: Tensor, rows: slice) -> Tensor:
    return torch.cat([_doubled(x, rows), skip[..., rows, :]], 1)


def _doubled(x: Tensor, rows: slice) -> Tensor:
    """Rows of the image at twice its sides; the first and last lines of both lie upon each other."""
    sides = [2 * side for side in x.shape[2:]]
    place = torch.arange(rows.start, rows.stop, dtype=x.dtype, device=x.device) * ((x.shape[-2] - 1) / (sides[-2] - 1))
    low = place.long().clamp(max=x.shape[-2] - 2)
    voxels, share = x.movedim(1, -1), (place - low)[:, None, None]
    few = torch.lerp(voxels.index_select(-3, low), voxels.index_select(-3, low + 1), share).movedim(-1, 1)
    sides[-2] = len(place)
    return F.interpolate(few, sides, mode=LINEAR[len(sides)], align_corners=True)


def _mixed(
    mix: NormedConvolution, joined: Callable[[slice], Tensor], rows: slice, height: int, scale: Tensor, shift: Tensor
) -> Tensor:
    """The convolution's rows, with those beside them as its halo, and zeros where the image ends."""
    halo = mix.conv.kernel_size[-2] // 2
    near = slice(max(rows.start - halo, 0), min(rows.stop + halo, height))
    x = scaled_and_shifted(joined(near), scale, shift)
    missing = near.start - (rows.start - halo), rows.stop + halo - near.stop
    padding = [side // 2 for side in mix.conv.kernel_size]
    padding[-2] = 0
    convolved = _CONVOLVE[len(padding)](
        F.pad(x, (0, 0, *missing)) if any(missing) else x, mix.conv.weight, mix.conv.bias, padding=padding
    )
    return F.leaky_relu(convolved, mix.slope, inplace=True)


def _reduced(reduce: NormedConvolution, norm: GroupNorm, mixed: Iterable[Tensor]) -> Tensor:
    """Of one channel out: with each group's part of the sum over channels kept, until its statistics are known."""
    assert reduce.conv.bias is not None
    weight = reduce.conv.weight.flatten()
    own = (weight * norm.weight).reshape(norm.num_groups, 1, -1)
    apart, nothing = torch.block_diag(*own), torch.zeros_like(own[:, 0, 0])
    sums, parts = [], []
    for y in mixed:
        sums.append(mix_channels(y, apart, nothing, slope=1))
        parts.append((y.shape[-2], norm.statistics(y)))
    found = pooled(parts)
    mean, variance = (values[:, :: found.together] for values in (found.mean, found.variance))
    rate = torch.rsqrt(variance + norm.eps)
    constant = reduce.conv.bias + weight @ norm.bias - (rate * mean) @ own.sum((1, 2))
    summed = torch.einsum("sg,sg...->s...", rate, torch.cat(sums, -2))
    whole = summed.add_(constant.reshape(-1, *[1] * (summed.dim() - 1)))
    return F.leaky_relu(whole, reduce.slope, inplace=True)[:, None]
