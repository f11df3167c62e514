"""RED-CNN: residual encoder and decoder (Chen et al. 2017, doi:10.1109/TMI.2017.2715284), also in three dimensions."""

import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.errors import UserError
from pipeline.models.dimensions import CONVOLUTION, TRANSPOSED
from pipeline.settings.architectures import ARCHITECTURES
from pipeline.settings.cells import CellSettings

LAYERS = 5
KERNEL = 5
INITIAL_SD = 0.01
LEAST_SIDE = LAYERS * (KERNEL - 1) + 1
assert ARCHITECTURES["redcnn"].least_side == LEAST_SIDE


class REDCNN(nn.Module):
    """Five convolutions without padding, then five transposed ones; (batch, 1, sides) to the same shape.

    The input and the features after convolutions 2 and 4 are added to the transposed convolutions' outputs of their
    size. Weights start as in the paper: normal, with a standard deviation of 0.01. In 3D only rows and columns shrink:
    z is padded with zeros, since a volume may have no 21 slices.

    Args:
        dims: 2 for slices (y, x), 3 for volumes (z, y, x).
        width: channels of the features.
        residual: the last layer, to which the input is added, is linear and starts at zero: the untrained network
            returns its input, and the output may be negative. Otherwise a ReLU ends the network, as published.
    """

    def __init__(self, dims: int = 2, *, width: int = 96, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        last, padding = LAYERS - 1, (*[KERNEL // 2] * (dims - 2), 0, 0)
        self.encoder = nn.ModuleList(
            CONVOLUTION[dims](width if i else 1, width, KERNEL, padding=padding) for i in range(LAYERS)
        )
        self.decoder = nn.ModuleList(
            TRANSPOSED[dims](width, 1 if i == last else width, KERNEL, padding=padding) for i in range(LAYERS)
        )
        for name, parameter in self.named_parameters():
            is_zero = name.endswith("bias") or (residual and name.startswith(f"decoder.{last}"))
            nn.init.normal_(parameter, 0, 0 if is_zero else INITIAL_SD)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (batch, 1, sides); rows and columns must be at least 21.

        Raises:
            UserError: a side is too short.
        """
        if min(x.shape[-2:]) < LEAST_SIDE:
            raise UserError(f"sides {tuple(x.shape[-2:])} are too short for RED-CNN: each must be {LEAST_SIDE} or more")
        y, shortcuts = x, []
        for level, layer in enumerate(self.encoder):
            if level % 2 == 0:
                shortcuts.append(y)
            y = F.relu(layer(y), inplace=True)
        for level, layer in zip(reversed(range(LAYERS)), self.decoder, strict=True):
            y = layer(y)
            y = y if level % 2 else y + shortcuts.pop()
            y = y if self.residual and level == 0 else F.relu(y, inplace=True)
        return y


def build(cell: CellSettings) -> REDCNN:
    """Build a cell's network."""
    return REDCNN(cell.dims, residual=cell.training.residual, **cell.options)
