"""A small trained-looking model file."""

from pathlib import Path

import torch
from torch import nn

from pipeline.inference.model_file import save_model
from pipeline.models import build_network
from tests.pipeline.cells import cell

SPACING = (2.5, 0.703125, 0.703125)


def toy_model(folder: Path) -> Path:
    """A network that changes something: its last layer does not start at zero."""
    settings = cell(3, residual=True, norm="group")
    torch.manual_seed(0)
    network = build_network(settings)
    nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.02)
    save_model(folder / "model.safetensors", network, settings, {"run": "toy"})
    return folder / "model.safetensors"
