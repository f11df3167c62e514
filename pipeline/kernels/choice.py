"""Where our kernels run in place of torch's operators: on GPUs, if Triton is installed and can compile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor

from data_prep.log import logger

HAS_TRITON = find_spec("triton") is not None
HAS_COMPILER = bool(os.environ.get("CC") or which("gcc") or which("clang"))
"""Triton compiles the launch of each kernel as a C extension."""
_on_all_devices = False


def uses_kernels(x: Tensor) -> bool:
    """Whether kernels take this tensor: on a GPU, in float32, bfloat16 or float16."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if _on_all_devices or not x.is_cuda:
        return _on_all_devices
    if HAS_TRITON and HAS_COMPILER:
        return True
    _warn("triton finds no C compiler (gcc, clang or $CC)" if HAS_TRITON else "triton is not installed")
    return False


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
def _warn(reason: str) -> None:
    logger.warning(f"{reason}: on this GPU torch's own, slower operators are used")
