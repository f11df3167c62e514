"""Convolutions of small volumes on CPUs, as a batch of two halves.

In float32 torch takes oneDNN for a kernel of 3 x 3 x 3 voxels only if there are several samples, or channels x slices x
rows are more than 20,480. Else it multiplies a matrix of all windows, which takes twelve times as long here (16 to 16
channels, 16 x 64 x 64) and 27 times the memory of the input.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.convolutions.described import may_rearrange

ROWS = 20480


def gains_by_halves(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether torch would compute a convolution of (1, in, sides), which keeps the sides, slowly."""
    if not may_rearrange(x):
        return False
    batch, channels, slices, rows, _ = x.shape
    is_small = batch == 1 and slices % 2 == 0 and channels * slices * rows <= ROWS
    return is_small and weight.shape[-1] == 3 and set(padding) == {1}


def convolve_halves(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (1, in, sides), whose slices are even in number, by kernels of 3 x 3 x 3 to (1, out, sides)."""
    half = x.shape[2] // 2
    padded = F.pad(x, (0, 0, 0, 0, 1, 1))
    y = F.conv3d(torch.cat([padded[:, :, : half + 2], padded[:, :, half:]]), weight, bias, padding=(0, 1, 1))
    return y.movedim(1, -1).reshape(1, *x.shape[2:], -1).movedim(-1, 1)
