"""Structural similarity of images in a separable window, in few passes over memory.

The window's first axis is read together with the products of both images, so that these are never written. At 16 x 512
x 512 with a window of 11, five moments of 6 slices are left after it: forward and backward passes move 0.5 GB in all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.operators import define

MOMENTS = 5
Window = Sequence[tuple[float, ...]]
"""Weights along each axis."""


def _moment_shapes(x: Tensor, y: Tensor, taps: Sequence[float]) -> Tensor:
    return x.new_empty(len(x), MOMENTS, x.shape[1] - len(taps) + 1, x.shape[2])


def _moment_gradient_shapes(
    gradient: Tensor, x: Tensor, y: Tensor, taps: Sequence[float], needs_y: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y) if needs_y else y.new_empty(0)


def _correlation_shapes(x: Tensor, taps: Sequence[float], padding: int) -> Tensor:
    return x.new_empty(len(x), x.shape[1] + 2 * padding - len(taps) + 1, x.shape[2])


def _comparison_shapes(moments: Tensor, c1: float, c2: float) -> Tensor:
    return moments.new_empty(2, len(moments))


def _comparison_gradient_shapes(gradient: Tensor, moments: Tensor, c1: float, c2: float) -> Tensor:
    return torch.empty_like(moments)


_blur_moments = define("blur_moments(Tensor x, Tensor y, float[] taps) -> Tensor", "blur", _moment_shapes)
_moment_gradients = define(
    "blur_moments_backward(Tensor gradient, Tensor x, Tensor y, float[] taps, bool needs_y) -> (Tensor, Tensor)",
    "blur",
    _moment_gradient_shapes,
)
_correlate = define("correlate(Tensor x, float[] taps, int padding) -> Tensor", "blur", _correlation_shapes)
_compare = define("compare(Tensor moments, float c1, float c2) -> Tensor", "comparison", _comparison_shapes)
_comparison_gradient = define(
    "compare_backward(Tensor gradient, Tensor moments, float c1, float c2) -> Tensor",
    "comparison",
    _comparison_gradient_shapes,
)


def _correlate_axis(moments: Tensor, axis: int, taps: tuple[float, ...], padding: int) -> Tensor:
    """Correlate along an axis of contiguous moments, with zeros before and after it."""
    before, after = moments.shape[:axis], moments.shape[axis + 1 :]
    lines = moments.reshape(before.numel(), moments.shape[axis], after.numel())
    correlated: Tensor = _correlate(lines, taps, padding)
    return correlated.reshape(*before, -1, *after)


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, window: Window, c1: float, c2: float) -> tuple[Tensor, Tensor]:
        lines = [image.reshape(len(image), image.shape[2], -1) for image in (x, y)]
        moments = _blur_moments(*lines, window[0])
        moments = moments.reshape(*moments.shape[:3], *x.shape[3:])
        for axis, taps in enumerate(window[1:], start=3):
            moments = _correlate_axis(moments, axis, taps, 0)
        ctx.save_for_backward(*lines, moments)
        ctx.window, ctx.constants, ctx.shape = window, (c1, c2), x.shape
        full, contrast = _compare(moments.reshape(len(x), MOMENTS, -1), c1, c2)
        return full, contrast

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_full: Tensor, to_contrast: Tensor) -> tuple[Tensor | None, ...]:
        x, y, moments = ctx.saved_tensors
        gradient = torch.stack([to_full, to_contrast])
        gradient = _comparison_gradient(gradient, moments.reshape(len(x), MOMENTS, -1), *ctx.constants)
        gradient = gradient.reshape(moments.shape)
        for axis, taps in reversed(list(enumerate(ctx.window[1:], start=3))):
            gradient = _correlate_axis(gradient, axis, taps[::-1], len(taps) - 1)
        needs_y = ctx.needs_input_grad[1]
        lines = gradient.reshape(*gradient.shape[:3], -1)
        to_x, to_y = _moment_gradients(lines, x, y, ctx.window[0], needs_y)
        return to_x.reshape(ctx.shape), to_y.reshape(ctx.shape) if needs_y else None, None, None, None


def structural_similarity(x: Tensor, y: Tensor, window: Window, c1: float, c2: float) -> tuple[Tensor, Tensor]:
    """Average SSIM and its contrast-structure part over each image.

    Args:
        x: (batch, 1, sides), float32.
        y: the same.
        window: weights along each axis, at most as many as that side has voxels; 1 alone for an axis without window.
        c1: stabilises the luminance.
        c2: stabilises contrast and structure.

    Returns:
        Both averages, each (batch,).
    """
    averages: tuple[Tensor, Tensor] = _Similarity.apply(  # type: ignore[no-untyped-call]
        x.contiguous(), y.contiguous(), window, c1, c2
    )
    return averages
