"""Structural similarity of images on one scale (SSIM) and on several (MS-SSIM), in 2D and 3D.

After Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216); beside it the variant in the code of the
3D-DDnet authors, for comparison with their paper.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels.choice import uses_kernels
from pipeline.kernels.similarity import structural_similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
SIGMA = 1.5
_FLOOR = 1e-6  # keeps the gradient of a fractional power finite where similarity is not positive

_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_POOL: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


def _blur(x: Tensor, widths: Sequence[int], centre: Callable[[int], float]) -> Tensor:
    """Average under a separable Gaussian window, without padding; ``widths``: of the window along each axis."""
    channels = x.shape[1]
    for axis, width in enumerate(widths, start=2):
        offsets = torch.arange(width, dtype=x.dtype, device=x.device) - centre(width)
        weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
        shape = [1] * x.dim()
        shape[axis] = width
        kernel = (weights / weights.sum()).reshape(shape).repeat(channels, *[1] * (x.dim() - 1))
        x = _CONV[x.dim() - 2](x, kernel, groups=channels)
    return x


@cache
def _gaussian(width: int, centre: float) -> tuple[float, ...]:
    """Return a Gaussian window's weights, whose sum is 1."""
    weights = [math.exp(-((offset - centre) ** 2) / (2 * SIGMA**2)) for offset in range(width)]
    return tuple(weight / sum(weights) for weight in weights)


def _middle(width: int) -> float:
    return (width - 1) / 2


def _similarity(
    x: Tensor, y: Tensor, data_range: float, widths: Sequence[int], centre: Callable[[int], float] = _middle
) -> tuple[Tensor, Tensor]:
    """Average SSIM and its contrast-structure part over each image; (batch, 1, sides) to (batch,) twice."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    if uses_kernels(x):
        window = [_gaussian(width, centre(width)) for width in widths]
        return structural_similarity(x.float(), y.float(), window, c1, c2)
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], 1), widths, centre)
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5, 1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    contrast = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1)


def ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Compute MS-SSIM (Wang 2003) of each image; (batch, 1, sides) to (batch,).

    Five scales where the window of 11 fits into the plane on all of them. A smaller plane has fewer scales, with
    weights scaled to the same sum. Along z the window is as long as the volume, 11 slices at the most.
    """
    weights = _fitting_weights(min(x.shape[-2:]))
    return _combine(_scales(x, y, data_range, len(weights)), weights)


def ssim_and_ms_ssim(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Compute SSIM (Wang et al. 2004) and MS-SSIM, whose first scale it is; (batch, 1, sides) to (batch,) twice."""
    weights = _fitting_weights(min(x.shape[-2:]))
    scales = list(_scales(x, y, data_range, len(weights)))
    return scales[0][0], _combine(scales, weights)


def _scales(x: Tensor, y: Tensor, data_range: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield SSIM and its contrast-structure part on each scale, of half the sides of the one before."""
    for scale in range(count):
        if scale:
            x, y = _halve(x), _halve(y)
        yield _similarity(x, y, data_range, [min(WINDOW, side) for side in x.shape[2:]])


def _combine(scales: Iterable[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """Multiply the contrast of all scales but the last, and the SSIM of the last, to the power of their weights."""
    factors = []
    for number, (weight, (full, contrast)) in enumerate(zip(weights, scales, strict=True), start=1):
        factors.append((full if number == len(weights) else contrast).clamp(min=_FLOOR) ** weight)
    if uses_kernels(factors[0]):  # the gradient of `prod` would wait for the GPU
        return reduce(torch.mul, factors)
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
    """Compute MS-SSIM as the code of the 3D-DDnet authors does; one number for the whole batch.

    It differs from :func:`ms_ssim` in five points. The window is a cube as wide as the smallest side, off centre
    where that is even. The dynamic range is guessed from ``x`` at each scale. Averages are mapped from [-1, 1] to
    [0, 1] if ``mapped``. There are four scales in 3D, five in 2D. The similarity of the last scale is a factor of
    every scale before it: a slip of theirs, repeated here so that numbers can be compared.
    """
    weights = WEIGHTS[: 5 if x.dim() == 4 else 4]
    contrasts, full, pool = [], x.new_ones(()), _POOL[x.dim() - 2]
    for scale in range(len(weights)):
        if scale:
            x, y = pool(x, 2), pool(y, 2)
        widths = [min(WINDOW, *x.shape[2:])] * (x.dim() - 2)
        means = [v.mean() for v in _similarity(x, y, _guessed_range(x), widths, lambda width: width // 2)]
        full, contrast = [(v + 1) / 2 for v in means] if mapped else means
        contrasts.append(contrast)
    factors = [contrast**w * full ** weights[-1] for contrast, w in zip(contrasts, weights[:-1], strict=False)]
    return torch.stack(factors).prod()


def _guessed_range(x: Tensor) -> float:
    return (255.0 if x.max() > 128 else 1.0) + (0.1 if x.min() < -0.001 else 0.0)
