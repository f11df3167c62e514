"""Benchmarks of training."""

import torch
from torch import nn

from pipeline.models import DDnet, load_published
from tests.bench.timing import Timed, medians
from tests.plain_ddnet import PlainDDnet


def train_step() -> tuple[float, float]:
    """A training step of 3D-DDnet on 16 x 128 x 128, both threads, against the network written plainly."""
    torch.set_num_threads(2)
    plain, model = PlainDDnet(3), DDnet(3)
    load_published(model, {name: value.numpy() for name, value in plain.state_dict().items()})
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.rand(1, 1, 16, 128, 128)
    return medians(_step(model, x), _step(plain, x), 3)


def _step(network: nn.Module, x: torch.Tensor) -> Timed:
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (network(x) - x).square().mean().backward()
        optimizer.step()

    return step
