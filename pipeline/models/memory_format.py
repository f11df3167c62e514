"""The order in memory of images and kernels: channels last, which convolutions on CPUs and GPUs are fastest in."""

import torch
from torch import nn


def channels_last(dims: int) -> torch.memory_format:
    """The order of (batch, channels, sides)."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def lay_out(network: nn.Module, dims: int) -> nn.Module:
    """Put the network's kernels in that order, but those of one pixel, for which both orders are one.

    Those keep their plain strides, since so come their gradients.
    """
    for parameter in network.parameters():
        if parameter.dim() == dims + 2 and parameter[0, 0].numel() > 1:
            laid = torch.empty_like(parameter.data, memory_format=channels_last(dims))
            parameter.data = laid.copy_(parameter.data)
    return network
