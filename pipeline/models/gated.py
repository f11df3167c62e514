"""NAFNet's block: gates in place of activations, and attention that is the same for crops and whole planes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.dimensions import CONVOLUTION


def _gate(voxels: Tensor) -> Tensor:
    """Multiply the first half of the channels with the second: (batch, sides, 2c) to (batch, sides, c)."""
    first, second = voxels.tensor_split(2, -1)
    return first * second


class GatedBlock(nn.Module):
    """A depthwise convolution with channel attention, then a mix of channels; both start as the identity.

    ``window``: side in the plane of which attention takes the mean of each channel: that of a training crop. A larger
    plane has several windows, between whose factors it interpolates (after Chu et al. 2022, arXiv:2112.04491), since
    means of a whole plane are not what a network has learnt from crops. None: the whole plane.
    """

    def __init__(self, dims: int, width: int, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen_1, self.widen_2 = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.spread = CONVOLUTION[dims](2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attend = nn.Linear(width, width)
        self.mix_1, self.mix_2 = nn.Linear(width, width), nn.Linear(width, width)
        self.share_1, self.share_2 = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, sides) to the same shape."""
        voxels = x.movedim(1, -1)
        y = _gate(self.spread(self.widen_1(self.norm_1(voxels)).movedim(-1, 1)).movedim(1, -1))
        voxels = voxels + self.share_1 * self.mix_1(y * self._attention(y))
        mixed: Tensor = voxels + self.share_2 * self.mix_2(_gate(self.widen_2(self.norm_2(voxels))))
        return mixed.movedim(-1, 1)

    def _attention(self, voxels: Tensor) -> Tensor:
        """Return the factors of (batch, sides, c), in a shape that broadcasts against it."""
        planes = voxels.mean(1) if voxels.dim() == 5 else voxels
        rows, columns = (max(1, round(side / self.window)) if self.window else 1 for side in planes.shape[1:3])
        means = F.adaptive_avg_pool2d(planes.movedim(-1, 1), (rows, columns)).movedim(1, -1)
        factors: Tensor = self.attend(means)
        if rows * columns > 1:
            sides = list(planes.shape[1:3])
            factors = F.interpolate(factors.movedim(-1, 1), sides, mode="bilinear").movedim(1, -1)
        return factors.unsqueeze(1) if voxels.dim() == 5 else factors
