"""Training steps on a GPU: ours as a training takes them, and the network written plainly."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import nn

from pipeline.convolutions.choice import choose
from pipeline.convolutions.layers import use_algorithms
from pipeline.convolutions.memory_format import lay_out
from pipeline.models.registry import build_network
from pipeline.settings.cells import CellSettings
from pipeline.training.captured import capture_if_asked
from pipeline.training.clock import StepClock
from pipeline.training.convolutions import convolutions_of
from pipeline.training.loader import Batch
from pipeline.training.step import TrainingStep
from tests.gpu.card import SIDE, SLICES, device
from tests.pipeline.cells import cell
from tests.plain_ddnet import PlainDDnet

RATE = 1e-4


def default_cell(**training: Any) -> CellSettings:
    """Return a 3D training by the settings' defaults, of the whole plane."""
    return cell(3, slices=SLICES, **{"norm": "group", "crop": SIDE, **training})


def build_network_of(settings: CellSettings) -> nn.Module:
    """Build the cell's network on the device, its convolutions by chosen algorithms."""
    torch.manual_seed(0)
    network = lay_out(build_network(settings).to(device()), 3)
    if device().type == "cuda":
        use_algorithms(network, choose(convolutions_of(settings, gpu=True), device()))
    return network


def build_step(settings: CellSettings) -> Callable[[], object]:
    """Return a training step of the cell as the trainer takes it."""
    network = build_network_of(settings)
    low_precision = settings.training.lowers_precision(gpu=device().type == "cuda")
    trained = capture_if_asked(settings, network, low_precision=low_precision)
    step = TrainingStep(settings, network, trained, StepClock(device()), low_precision=low_precision)
    batches = repeat(random_batch(settings.training.batch))

    def take() -> None:
        torch.backends.cudnn.deterministic = True  # as in a training
        step.clock.start()
        step.take(batches, RATE)

    return take


def build_plain_step(batch: int) -> Callable[[], object]:
    """Return a step of the network written plainly, in float32 (TF32 on GPUs), with the mean squared error."""
    network = PlainDDnet(3, residual=True).to(device())
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    low, full = (images.to(device()) for images in random_batch(batch)[:2])

    def take() -> None:
        torch.backends.cudnn.deterministic = False
        optimizer.zero_grad()
        nn.functional.mse_loss(network(low), full).backward()
        optimizer.step()

    return take


def random_batch(batch: int) -> Batch:
    """Return low and full dose of random numbers, in memory from which a GPU copies at once."""
    generator = torch.Generator().manual_seed(0)
    low, full = (torch.randn(batch, 1, SLICES, SIDE, SIDE, generator=generator) for _ in range(2))
    if torch.cuda.is_available():
        low, full = low.pin_memory(), full.pin_memory()
    return low, full, torch.ones(batch, 2)


def batches() -> Iterator[Batch]:
    """Yield batches of one sample for ever."""
    return repeat(random_batch(1))
