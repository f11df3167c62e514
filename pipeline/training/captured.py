"""A network's training passes as CUDA graphs, which the host starts by one launch each instead of hundreds."""

import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.log import logger
from pipeline.convolutions.memory_format import channels_last
from pipeline.settings.cells import CellSettings
from pipeline.training.memory import blank_batches


class CapturedNetwork(nn.Module):
    """Runs a network for training; the network itself, as a validation calls it, is not captured.

    Args:
        network: in training mode, its convolutions by the algorithms that are to be captured.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output."""
        y: Tensor = self.network(images)
        return y


def can_capture(device: torch.device) -> bool:
    """Whether the device has CUDA graphs."""
    return device.type == "cuda"


def capture_if_asked(cell: CellSettings, network: nn.Module, *, low_precision: bool) -> nn.Module:
    """Capture the network for the cell's batches if the settings ask for it, or return it; a warning says so on CPUs.

    Raises:
        UserError: torch cannot capture an operator of the network.
    """
    device = next(network.parameters()).device
    if not cell.training.cuda_graphs:
        return network
    if not can_capture(device):
        logger.warning(f"cell {cell.id}: training.cuda_graphs does nothing on a CPU")
        return network
    images = next(blank_batches(cell))[0].to(device).contiguous(memory_format=channels_last(cell.dims))
    return capture(network, images, low_precision=low_precision)


def capture(network: nn.Module, images: Tensor, *, low_precision: bool) -> CapturedNetwork:
    """Capture the network's forward and backward passes for images of this size, on a GPU.

    Each backward pass writes the same gradients anew: set them to None before the next. Running statistics stay as
    they are.

    Args:
        network: in training mode, its convolutions by their algorithms; not yet wrapped for an exchange of gradients.
        images: (batch, 1, sides), channels last.
        low_precision: the network's arithmetic is in bfloat16.

    Raises:
        UserError: torch cannot capture an operator of the network.
    """
    statistics = [(buffer, buffer.clone()) for buffer in network.buffers()]
    captured = CapturedNetwork(network)
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low_precision, cache_enabled=False):
            torch.cuda.make_graphed_callables(captured, (images,))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"torch cannot capture this network in CUDA graphs ({reason}): set training.cuda_graphs to false"
        ) from error
    with torch.no_grad():
        for buffer, before in statistics:
            buffer.copy_(before)
    return captured
