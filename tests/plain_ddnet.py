"""DDnet written plainly from the paper's table, under the authors' key names: the reference and the bench's baseline.

Transposed convolutions as such, contiguous memory, separate batch norm and activation. ``residual`` adds the input
to the output of a last layer that is linear and starts at zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainDense(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
        for j in range(4):
            channels = 16 * (j + 1)
            self.add_module(f"batch_norm1_{j}", norm(channels))
            self.add_module(f"conv1_{j}", conv(channels, 64, 1))
            self.add_module(f"batch_norm2_{j}", norm(64))
            self.add_module(f"conv2_{j}", conv(64, 16, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        for j in range(4):
            layer = {
                name: self.get_submodule(f"{name}_{j}") for name in ("batch_norm1", "conv1", "batch_norm2", "conv2")
            }
            y = F.leaky_relu(layer["conv1"](layer["batch_norm1"](x)), 0.01)
            y = F.leaky_relu(layer["conv2"](layer["batch_norm2"](y)), 0.01)
            x = torch.cat((x, y), 1)
        return x


class PlainDDnet(nn.Module):
    def __init__(self, dims: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        conv, transposed, norm, pool = {
            2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d),
            3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d),
        }[dims]
        self.mode = {2: "bilinear", 3: "trilinear"}[dims]
        self.pool = pool(3, 2, 1)
        self.batch1, self.conv1 = norm(1), conv(1, 16, 7, padding=3)
        for i in range(1, 5):
            self.add_module(f"dnet{i}", PlainDense(dims))
            self.add_module(f"batch{i + 1}", norm(80))
            self.add_module(f"conv{i + 1}", conv(80, 16, 1))
            self.add_module(f"batch{2 * i + 4}", norm(32))
            self.add_module(f"convT{2 * i - 1}", transposed(32, 32, 5, padding=2))
            self.add_module(f"batch{2 * i + 5}", norm(32))
            self.add_module(f"convT{2 * i}", transposed(32, 16 if i < 4 else 1, 1))
        if residual:
            for parameter in self.get_submodule("convT8").parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        skips = [F.leaky_relu(self.conv1(self.batch1(x)), 0.01)]
        for i in range(1, 5):
            dense = self.get_submodule(f"dnet{i}")(self.pool(skips[-1]))
            dense = self.get_submodule(f"conv{i + 1}")(self.get_submodule(f"batch{i + 1}")(dense))
            skips.append(F.leaky_relu(dense, 0.01))
        y: Tensor = skips.pop()
        for i in range(1, 5):
            y = F.interpolate(y, scale_factor=2, mode=self.mode, align_corners=True)
            y = torch.cat((y, skips.pop()), 1)
            for k in (2 * i - 1, 2 * i):
                y = self.get_submodule(f"convT{k}")(self.get_submodule(f"batch{k + 5}")(y))
                y = y if self.residual and k == 8 else F.leaky_relu(y, 0.01)
        return x + y if self.residual else y
