"""Comparison of kernels, on a GPU or else in Triton's interpreter, with torch's operators in float64."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from pipeline.kernels.choice import HAS_TRITON

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
of_kernels = [needs_triton, pytest.mark.gpu] if DEVICE == "cuda" else [needs_triton]
ORDERS = {2: torch.channels_last, 3: torch.channels_last_3d}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative to the largest number; bfloat16 has 8 bits, float16 has 11."""


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return normal numbers in channels-last memory, (batch, channels, sides)."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return numbers.to(DEVICE).contiguous(memory_format=ORDERS[len(shape) - 2])


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest number of b."""
    return float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return a function's output and the gradients of its inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream.to(y.dtype))]


def check(
    kernel: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor
) -> None:
    """Check output and gradients against those in float64; a second call gives the same bits."""
    outputs = gradients(kernel, inputs, upstream)
    expected = gradients(exact, [x.double() for x in inputs], upstream.double())
    for output, number in zip(outputs, expected, strict=True):
        assert output.shape == number.shape
        assert difference(output, number) < TOLERANCES[inputs[0].dtype]
    for output, number in zip(gradients(kernel, inputs, upstream), outputs, strict=True):
        assert torch.equal(output, number)
