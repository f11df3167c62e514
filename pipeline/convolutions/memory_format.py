"""The order of images and kernels in memory: channels last, in which convolutions on CPUs and GPUs are fastest."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn


def channels_last(dims: int) -> torch.memory_format:
    """Return torch's name of the order for (batch, channels, sides) with ``dims`` sides."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def empty_kernels(size: Sequence[int], x: Tensor) -> Tensor:
    """Return kernels of a size, (out, in, kernel), whose numbers are not set, of the type and device of ``x``."""
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=channels_last(len(size) - 2))


def lay_out(network: nn.Module, dims: int) -> nn.Module:
    """Store the network's kernels channels last, in place; return the network.

    Kernels of one pixel look the same in both orders. They keep their plain strides, since their gradients have them.
    Those of one input channel do too, but their gradients have either strides, and get those of the kernel: DDP would
    warn of others.
    """
    for parameter in network.parameters():
        if parameter.dim() == dims + 2 and parameter[0, 0].numel() > 1:
            kernel = torch.empty_like(parameter.data, memory_format=channels_last(dims))
            parameter.data = kernel.copy_(parameter.data)
            if parameter.shape[1] == 1 and parameter.requires_grad:
                parameter.register_hook(partial(_set_strides, strides=parameter.stride()))
    return network


def _set_strides(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return the gradient with these strides if they differ from its own along axes of length 1 alone."""
    axes = zip(gradient.shape, gradient.stride(), strides, strict=True)
    is_alike = all(length == 1 or stride == expected for length, stride, expected in axes)
    return gradient.as_strided(gradient.shape, strides) if is_alike else gradient
