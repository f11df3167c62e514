"""Composite loss: mean squared error and multi-scale structural similarity.

MS-SSIM after Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), and the variant in
the code of the 3D-DDnet authors, for comparison with their paper.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
SIGMA = 1.5
_FLOOR = 1e-6  # keeps the gradient of a fractional power finite where similarity is not positive

MsSsim = Literal["wang", "authors"]

_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_POOL: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


def _blur(x: Tensor, widths: Sequence[int], centre: Callable[[int], float]) -> Tensor:
    """Separable Gaussian mean without padding; one window width an axis, ``centre`` of a width."""
    channels = x.shape[1]
    for axis, width in enumerate(widths, start=2):
        if width == 1:
            continue
        place = torch.arange(width, dtype=x.dtype, device=x.device) - centre(width)
        weights = torch.exp(-(place**2) / (2 * SIGMA**2))
        shape = [1] * x.dim()
        shape[axis] = width
        kernel = (weights / weights.sum()).reshape(shape).repeat(channels, *[1] * (x.dim() - 1))
        x = _CONV[x.dim() - 2](x, kernel, groups=channels)
    return x


def _middle(width: int) -> float:
    return (width - 1) / 2


def _similarity(
    x: Tensor, y: Tensor, data_range: float, widths: Sequence[int], centre: Callable[[int], float] = _middle
) -> tuple[Tensor, Tensor]:
    """Means per image of SSIM and of its contrast-structure part; (batch, channels, sides) to (batch,)."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], 1), widths, centre)
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5, 1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    contrast = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1)


def ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Structural similarity (Wang et al. 2004) per image; (batch, 1, sides) to (batch,)."""
    widths = [min(WINDOW, side) for side in x.shape[2:]]
    return _similarity(x, y, data_range, widths)[0]


def ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """MS-SSIM of Wang 2003 per image; (batch, 1, sides) to (batch,).

    Five scales where the window of 11 fits them all; on smaller crops as many as fit in the plane,
    their weights scaled to the same sum. Along z the window is cut to the slices there are.
    """
    weights = _fitting_weights(min(x.shape[-2:]))
    factors = []
    for scale, weight in enumerate(weights):
        full, contrast = _similarity(x, y, data_range, [min(WINDOW, side) for side in x.shape[2:]])
        last = scale == len(weights) - 1
        factors.append((full if last else contrast).clamp(min=_FLOOR) ** weight)
        if not last:
            x, y = _halve(x), _halve(y)
    return torch.stack(factors).prod(0)


def _fitting_weights(side: int) -> list[float]:
    scales = 1
    while scales < len(WEIGHTS) and -(-side // 2**scales) >= WINDOW:  # an odd side is padded before it is halved
        scales += 1
    total = sum(WEIGHTS[:scales])
    return [weight / total for weight in WEIGHTS[:scales]] if scales < len(WEIGHTS) else list(WEIGHTS)


def _halve(x: Tensor) -> Tensor:
    kernel = [min(2, side) for side in x.shape[2:]]
    padding = [side % 2 if side > 1 else 0 for side in x.shape[2:]]
    return _POOL[x.dim() - 2](x, kernel, padding=padding)


def authors_ms_ssim(x: Tensor, y: Tensor, *, mapped: bool = True) -> Tensor:
    """MS-SSIM as the 3D-DDnet authors compute it, one value for the batch.

    One cubic window cut to the smallest side, off centre where that is even; the dynamic range
    guessed from ``x`` at each scale; means mapped from [-1, 1] to [0, 1] (if ``mapped``); four scales
    in 3D, five in 2D; and the last scale's similarity raised once for each scale before it, a slip
    that is kept for comparison.
    """
    weights = WEIGHTS[: 5 if x.dim() == 4 else 4]
    contrasts, full = [], x.new_ones(())
    for _ in weights:
        widths = [min(WINDOW, *x.shape[2:])] * (x.dim() - 2)
        means = [v.mean() for v in _similarity(x, y, _guessed_range(x), widths, lambda width: width // 2)]
        full, contrast = [(v + 1) / 2 for v in means] if mapped else means
        contrasts.append(contrast)
        pool = _POOL[x.dim() - 2]
        x, y = pool(x, 2), pool(y, 2)
    factors = [contrast**w * full ** weights[-1] for contrast, w in zip(contrasts, weights[:-1], strict=False)]
    return torch.stack(factors).prod()


def _guessed_range(x: Tensor) -> float:
    return (255.0 if x.max() > 128 else 1.0) + (0.1 if x.min() < -0.001 else 0.0)


class CompositeLoss(nn.Module):
    """Mean squared error + ``weight`` * (1 - MS-SSIM); ``weight`` 0 is plain MSE."""

    def __init__(self, weight: float, variant: MsSsim, data_range: float) -> None:
        super().__init__()
        self.weight, self.variant, self.data_range = weight, variant, data_range

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of (batch, 1, sides), one value."""
        error = F.mse_loss(output, target)
        return error + self.weight * (1 - self._similarity(output, target)) if self.weight else error

    def _similarity(self, output: Tensor, target: Tensor) -> Tensor:
        if self.variant == "authors":
            return authors_ms_ssim(output, target)
        return ms_ssim(output, target, self.data_range).mean()
