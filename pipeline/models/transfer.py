"""Transfer of a trained 2D network's weights to the 3D network of the same architecture and options."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from pipeline.settings.names import Fill

NOISE_SHARE = 0.01


def inflate(network_2d: nn.Module, network_3d: nn.Module, fill: Fill = "zero", *, seed: int = 0) -> None:
    """Copy the 2D weights into the 3D network; biases, normalisation and layers without a z axis stay as they are.

    ``zero``: the 2D kernel lies in the centre plane, zeros in the other planes: a volume that is constant in z gives
    the 2D output. (A transposed convolution of stride 2 has it in two planes, one for every second slice.) ``repeat``:
    the kernel lies in every plane. ``mean``: the same divided by the number of planes that meet in an output slice (by
    a stride of a transposed convolution not all do), which keeps the 2D output away from the z borders. ``noise``: as
    ``zero``, with normal noise of a hundredth of the kernel's standard deviation in the other planes.

    Raises:
        UserError: the dimensions are wrong, the networks differ in architecture, options or residual, or the fill is
            unknown.
    """
    if fill not in get_args(Fill):
        raise UserError(f"fill {fill!r} is unknown; valid: {', '.join(get_args(Fill))}")
    flat, deep = network_2d.state_dict(), network_3d.state_dict()
    if getattr(network_2d, "residual", None) != getattr(network_3d, "residual", None):
        raise UserError("transfer needs both networks residual or neither")
    _check_fit(flat, deep)
    planes, generator = _planes_of_transposed(network_3d), torch.Generator().manual_seed(seed)
    network_3d.load_state_dict({
        name: _to_3d(flat[name], deep[name].shape, fill, planes.get(name), generator) for name in deep
    })  # fmt: skip


def _check_fit(flat: Mapping[str, Tensor], deep: Mapping[str, Tensor]) -> None:
    """Raise UserError if the weights are not those of one architecture in 2D and 3D."""
    dims = [max(weight.dim() for weight in state.values()) - 2 for state in (flat, deep)]
    if dims != [2, 3]:
        raise UserError(f"transfer goes from 2 to 3 dimensions, not from {dims[0]} to {dims[1]}")
    different = set(flat) ^ set(deep)
    if different:
        raise UserError(f"transfer needs one architecture in 2D and 3D: only one of the two has {min(different)}")
    for name, weight in deep.items():
        plane = weight.shape[:2] + weight.shape[3:] if weight.dim() == 5 else weight.shape
        if flat[name].shape not in (plane, weight.shape):
            shapes = f"{tuple(flat[name].shape)} in 2D and {tuple(weight.shape)} in 3D"
            raise UserError(f"transfer needs the same options in 2D and 3D: {name} has shape {shapes}")


def _planes_of_transposed(network: nn.Module) -> dict[str, slice]:
    """Return, by the name of their weight, the planes in which transposed convolutions have the 2D kernel.

    Each slice of the output lies in one of as many planes as the stride in z, over a slice of the input.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.ConvTranspose3d)}
    starts = {name: int(layer.padding[0]) for name, layer in layers.items()}
    return {f"{name}.weight": slice(starts[name], starts[name] + layers[name].stride[0]) for name in layers}


def _to_3d(weight: Tensor, shape: torch.Size, fill: Fill, planes: slice | None, generator: torch.Generator) -> Tensor:
    """Fill a 3D kernel; ``planes``: in which it has the 2D kernel, None: the centre."""
    if weight.shape == shape:
        return weight
    depth = shape[2]
    if fill in ("repeat", "mean"):
        repeated = weight.unsqueeze(2).repeat(1, 1, depth, 1, 1)
        return repeated / _meeting(depth, planes) if fill == "mean" else repeated
    kernel = torch.zeros(shape, dtype=weight.dtype)
    if fill == "noise" and depth > 1:
        deviation = NOISE_SHARE * float(weight.std(correction=0))
        kernel.normal_(0, deviation, generator=generator)
    kernel[:, :, planes or slice(depth // 2, depth // 2 + 1)] = weight.unsqueeze(2)
    return kernel


def _meeting(depth: int, planes: slice | None) -> Tensor:
    """Return for each plane how many, itself included, meet in the output slices that it meets; shaped as a kernel."""
    stride = planes.stop - planes.start if planes else 1
    return torch.tensor([len(range(plane % stride, depth, stride)) for plane in range(depth)])[:, None, None]
