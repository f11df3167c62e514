"""Operators of our own by which torch calls kernels, on GPUs and in Triton's interpreter on CPUs."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("quarterdose", "FRAGMENT")


def define(schema: str, module: str, shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Define an operator, and return it.

    Args:
        schema: in torch's notation; begins with the operator's name, and its arguments with a tensor.
        module: of ``pipeline.kernels.programs``, whose function of that name launches the kernels. It is imported at
            the first call, so that shapes are known where Triton is not installed.
        shapes: returns empty outputs for tensors that hold no data.
    """
    name = schema.partition("(")[0]

    @cache
    def find_launch() -> Callable[..., Any]:
        launch: Callable[..., Any] = getattr(import_module(f"pipeline.kernels.programs.{module}"), name)
        return launch

    def launch(*arguments: Any) -> Any:
        with torch.cuda.device_of(arguments[0]):  # a thread's current GPU is the first, and Triton launches there
            return find_launch()(*arguments)

    _LIBRARY.define(schema)
    for device in ("CUDA", "CPU"):
        _LIBRARY.impl(name, launch, device)
    torch.library.register_fake(f"quarterdose::{name}", shapes, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.quarterdose, name).default
    return operator


def as_rows(x: Tensor) -> Tensor:
    """View an image in channels-last memory, (batch, channels, sides), as (batch, voxels, channels); others are copied.

    The voxels may have gaps between them, as in a part of a concatenation. (rows, channels) become a single image.
    """
    rows = x.movedim(1, -1).reshape(len(x), -1, x.shape[1]) if x.dim() > 2 else x[None]
    return rows if rows.stride(2) == 1 and rows.stride(0) == rows.stride(1) * rows.shape[1] else rows.contiguous()


def voxel_stride(rows: Tensor) -> int:
    """Return how far the voxels of (batch, voxels, channels) are from each other in memory.

    Where there is a single voxel or sample, torch's stride for it may be any number.
    """
    batch, voxels, channels = rows.shape
    return rows.stride(1) if voxels > 1 else rows.stride(0) if batch > 1 else channels


def as_image(rows: Tensor, sides: torch.Size) -> Tensor:
    """View (batch, voxels, channels) as an image in channels-last memory, (batch, channels, sides)."""
    return rows.reshape(len(rows), *sides, rows.shape[-1]).movedim(-1, 1)
