"""Group norm and the linear map behind it by GPU kernels: the normalised image is not kept, but computed again.

A normalised image is as large as its input, which is kept anyway. To normalise again in the backward pass reads and
writes each once; of a training's memory it saves a third.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.convolutions.algorithms import ALGORITHMS, LIBRARY
from pipeline.convolutions.layers import Conv2d, Conv3d, padding_of, to_autocast
from pipeline.convolutions.shape import PASSES, ConvolutionShape
from pipeline.kernels.group_norm import normalise_rows, normalise_rows_backward
from pipeline.kernels.operators import as_image, as_rows
from pipeline.models.norms import GroupNorm

PARTS = 128
"""About as many as a GPU has multiprocessors: A100 108, H100 132."""


@dataclass(frozen=True)
class LinearMap:
    """A linear map of images by a weight, and its gradients.

    ``output``: takes image and weight. ``input_gradient``, ``weight_gradient``: take the output's gradient, image and
    weight.
    """

    output: Callable[[Tensor, Tensor], Tensor]
    input_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]


def map_normed(x: Tensor, norm: GroupNorm, weight: Tensor, linear: Callable[[Tensor, Tensor], LinearMap]) -> Tensor:
    """Normalise (batch, channels, sides), then apply the linear map that ``linear`` returns for image and weight."""
    x, weight = to_autocast(x, weight)
    y: Tensor = _NormedMap.apply(  # type: ignore[no-untyped-call]
        x, norm.num_groups, norm.weight, norm.bias, norm.eps, weight, linear(x, weight)
    )
    return y


def convolution_of(layer: Conv2d | Conv3d, x: Tensor, weight: Tensor) -> LinearMap:
    """Return the layer's convolution by its algorithms."""
    shape = ConvolutionShape.of(x, weight, padding_of(layer))
    names = dict.fromkeys(PASSES, LIBRARY) if layer.algorithms is None else layer.algorithms[shape]
    return LinearMap(*(partial(ALGORITHMS[name][names.get(name, LIBRARY)].compute, shape) for name in PASSES))


def product_of(x: Tensor, weight: Tensor) -> LinearMap:
    """Return the product with (out, in), which maps (batch, in, sides) to (voxels, out)."""
    return LinearMap(_product, _product_to_input, _product_to_weight)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return as_rows(x).flatten(0, 1) @ weight.t()


def _product_to_input(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return as_image((gradient @ weight).reshape(len(x), -1, x.shape[1]), x.shape[2:])


def _product_to_weight(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Sum products over millions of voxels in parts, each of which keeps a multiprocessor at work."""
    rows = as_rows(x).flatten(0, 1)
    parts = math.gcd(len(rows), PARTS) if len(rows) > PARTS**2 else 1
    products = gradient.reshape(parts, -1, gradient.shape[1]).mT @ rows.reshape(parts, -1, rows.shape[1])
    return products.sum(0, dtype=torch.float32).to(weight.dtype)


class _NormedMap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, linear: LinearMap
    ) -> Tensor:
        rows = as_rows(x)
        normalised, mean, rate = normalise_rows(rows, groups, scale, shift, eps)
        ctx.save_for_backward(rows, mean, rate, scale, shift, weight)
        ctx.sides, ctx.groups, ctx.eps, ctx.linear = x.shape[2:], groups, eps, linear
        return linear.output(as_image(normalised, x.shape[2:]), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, mean, rate, scale, shift, weight = ctx.saved_tensors
        normalised = as_image(normalise_rows(rows, ctx.groups, scale, shift, ctx.eps)[0], ctx.sides)
        to_weight = ctx.linear.weight_gradient(gradient, normalised, weight)
        to_normalised = ctx.linear.input_gradient(gradient, normalised, weight)
        del normalised
        to_rows, (to_scale, to_shift) = normalise_rows_backward(as_rows(to_normalised), rows, mean, rate, scale)
        return as_image(to_rows, ctx.sides), None, to_scale, to_shift, None, to_weight, None
