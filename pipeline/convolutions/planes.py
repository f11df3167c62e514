"""Images of volumes plane by plane, in which libraries compute what they compute badly in space."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.convolutions import library
from pipeline.convolutions.shape import ConvolutionShape


def gradient_by_planes(
    shape: ConvolutionShape, gradient: Tensor, x: Tensor, kernels: Tensor, padding: Sequence[int]
) -> Tensor:
    """Compute the gradient of each plane of the kernels as that of a convolution in the plane, by the library.

    ``kernels``: of the size of a plane, (out, in, rows, columns). ``padding``: of rows and columns.
    """
    planes = [
        library.weight_gradient(outputs, inputs, kernels, padding) if len(outputs) else None
        for outputs, inputs in _meetings(shape, gradient, x)
    ]
    middle = planes[shape.padding]  # it joins all planes of the image
    assert middle is not None
    return torch.stack([torch.zeros_like(middle) if plane is None else plane for plane in planes], 2)


def _meetings(shape: ConvolutionShape, gradient: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each plane of the kernels the planes of the output and of the input that it joins."""
    depth = shape.sides[0]
    for number in range(shape.kernel):
        offset = number - shape.padding  # of the input's plane from the output's
        start = max(0, -offset)
        stop = max(start, min(depth, depth - offset))
        yield _planes(gradient, start, stop), _planes(x, start + offset, stop + offset)


def _planes(image: Tensor, start: int, stop: int) -> Tensor:
    """View planes of (batch, channels, planes, rows, columns) as a batch, (batch * planes, channels, rows, columns)."""
    return image.movedim(1, -1)[:, start:stop].flatten(0, 1).movedim(-1, 1)
