"""Memory that a network's forward pass keeps for its backward pass."""

import torch
from torch import nn

from pipeline.training.memory import Dataless, LiveBytes, SavedBytes, drop_data


def saved_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the bytes kept of float32 images of ``shape``, the output among them; the network loses its weights."""
    live = LiveBytes()
    with Dataless(), live:
        drop_data(network)
        saved = SavedBytes(network, live)
        network(torch.empty(shape))
    return saved.count
