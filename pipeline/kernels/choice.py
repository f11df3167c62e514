"""Where our kernels run in place of torch's operators: on GPUs, if Triton is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from data_prep.log import logger

HAS_TRITON = find_spec("triton") is not None
_on_all_devices = False


def uses_kernels(x: Tensor) -> bool:
    """Whether kernels take this tensor: on a GPU, in float32, bfloat16 or float16."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if _on_all_devices or not x.is_cuda:
        return _on_all_devices
    if not HAS_TRITON:
        _warn()
    return HAS_TRITON


@contextmanager
def kernels_on_all_devices() -> Iterator[None]:
    """Have kernels take tensors on CPUs too: fake ones, or real ones where Triton's interpreter is on."""
    global _on_all_devices
    before, _on_all_devices = _on_all_devices, True
    try:
        yield
    finally:
        _on_all_devices = before


@cache
def _warn() -> None:
    logger.warning("triton is not installed: on this GPU torch's own, slower operators are used")
