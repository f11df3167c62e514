"""Loss of a training: mean squared error, and a similarity term that the settings choose by name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.intensity import DATA_RANGE
from pipeline.quality.ssim import authors_ms_ssim, ms_ssim
from pipeline.settings.training import Similarity, TrainingSettings

SIMILARITIES: dict[Similarity, Callable[[Tensor, Tensor, float], Tensor]] = {
    "wang": lambda output, target, data_range: ms_ssim(output, target, data_range).mean(),
    "authors": lambda output, target, data_range: authors_ms_ssim(output, target),
}
"""Similarity of (batch, 1, sides) twice, given the range of the intensities; one number, 1 for equal images."""


class CompositeLoss(nn.Module):
    """Mean squared error + ``weight`` * (1 - similarity); with ``weight`` 0 plain mean squared error."""

    def __init__(self, weight: float, similarity: Similarity, data_range: float) -> None:
        super().__init__()
        self.weight, self.similarity, self.data_range = weight, SIMILARITIES[similarity], data_range

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of (batch, 1, sides), one number."""
        error = F.mse_loss(output, target)
        return error + self.weight * (1 - self.similarity(output, target, self.data_range)) if self.weight else error


def build_loss(settings: TrainingSettings) -> CompositeLoss:
    """Build the loss that a training's settings ask for."""
    return CompositeLoss(settings.ms_ssim_weight, settings.ms_ssim, DATA_RANGE[settings.scaling])
