"""RED-CNN written plainly from the paper's figure, layer by layer; deconvolutions as padded convolutions."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def plain_red_cnn(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, last_relu: bool) -> Tensor:
    """``weights``: five of (out, in, 5, 5), then five of (in, out, 5, 5)."""

    def conv(y: Tensor, layer: int) -> Tensor:
        return F.conv2d(y, weights[layer], biases[layer])

    def deconv(y: Tensor, layer: int) -> Tensor:
        return F.conv2d(y, weights[layer].transpose(0, 1).flip(2, 3), biases[layer], padding=4)

    c1 = F.relu(conv(x, 0))
    c2 = F.relu(conv(c1, 1))
    c3 = F.relu(conv(c2, 2))
    c4 = F.relu(conv(c3, 3))
    c5 = F.relu(conv(c4, 4))
    d1 = F.relu(deconv(c5, 5) + c4)
    d2 = F.relu(deconv(d1, 6))
    d3 = F.relu(deconv(d2, 7) + c2)
    d4 = F.relu(deconv(d3, 8))
    y = deconv(d4, 9) + x
    return F.relu(y) if last_relu else y
