"""What torch calls differently for slices and for volumes, by the number of dimensions: 2 or 3."""

from typing import Any

import torch.nn.functional as F

from pipeline.convolutions.layers import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d

CONVOLUTION: dict[int, Any] = {2: Conv2d, 3: Conv3d}
CONVOLVE: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Any] = {2: ConvTranspose2d, 3: ConvTranspose3d}
MAX_POOL: dict[int, Any] = {2: F.max_pool2d, 3: F.max_pool3d}
LINEAR: dict[int, str] = {2: "bilinear", 3: "trilinear"}
"""Mode of interpolation."""
