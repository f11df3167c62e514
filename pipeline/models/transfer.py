"""Transfer of a trained 2D network's weights to a 3D one."""

from typing import get_args

import torch
from torch import Tensor

from data_prep.errors import UserError
from pipeline.models.ddnet import DDnet
from pipeline.settings.names import Fill

NOISE_SHARE = 0.01


def inflate(model_2d: DDnet, model_3d: DDnet, fill: Fill = "zero", *, seed: int = 0) -> None:
    """Copy the 2D weights into the 3D network; biases and normalisation stay as they are.

    ``zero``: the 2D kernel lies in the centre plane, zeros in the other planes: a volume that is constant in z gives
    the 2D output. ``repeat``: the kernel lies in every plane. ``mean``: the same divided by the number of planes,
    which keeps the 2D output away from the z borders. ``noise``: as ``zero``, with normal noise of a hundredth of
    the kernel's standard deviation in the other planes.

    Raises:
        UserError: the dimensions are wrong, only one of the networks is residual, or the fill is unknown.
    """
    if (model_2d.dims, model_3d.dims) != (2, 3):
        raise UserError(f"transfer goes from 2 to 3 dimensions, not from {model_2d.dims} to {model_3d.dims}")
    if model_2d.residual != model_3d.residual:
        raise UserError("transfer needs both networks residual or neither")
    if fill not in get_args(Fill):
        raise UserError(f"fill {fill!r} is unknown; valid: {', '.join(get_args(Fill))}")
    generator = torch.Generator().manual_seed(seed)
    flat, deep = model_2d.state_dict(), model_3d.state_dict()
    model_3d.load_state_dict({name: _to_3d(flat[name], deep[name].shape, fill, generator) for name in deep})


def _to_3d(weight: Tensor, shape: torch.Size, fill: Fill, generator: torch.Generator) -> Tensor:
    if weight.shape == shape:
        return weight
    planes = shape[2]
    if fill in ("repeat", "mean"):
        repeated = weight.unsqueeze(2).repeat(1, 1, planes, 1, 1)
        return repeated / planes if fill == "mean" else repeated
    kernel = torch.zeros(shape, dtype=weight.dtype)
    if fill == "noise" and planes > 1:
        deviation = NOISE_SHARE * float(weight.std(correction=0))
        kernel.normal_(0, deviation, generator=generator)
    kernel[:, :, planes // 2] = weight
    return kernel
