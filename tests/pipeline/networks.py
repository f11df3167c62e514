"""Networks of which no layer is neutral."""

import torch
from torch import nn

SIDES = {2: (32, 48), 3: (16, 32, 16)}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random normalisation too, so that no layer is left at its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if ("norm" in name or "batch" in name) and value.dtype.is_floating_point:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def fill_with_noise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights everywhere, so that no layer is left at its neutral start or lets nothing through."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            size = 1 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return network
