"""SSIM and MS-SSIM by kernels are those of torch's operators in float64, with the gradients of both images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.quality.ssim import authors_ms_ssim, ms_ssim, ssim_and_ms_ssim
from tests.pipeline.kernels import DEVICE, check, of_kernels

pytestmark = of_kernels


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    return x.to(DEVICE), (x + 0.1 * torch.randn(shape, generator=generator)).to(DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "shape"),
    [
        (lambda x, y: ssim_and_ms_ssim(x, y, 1.0)[0], (2, 1, 13, 17)),
        (lambda x, y: ssim_and_ms_ssim(x, y, 1.0)[0], (1, 1, 1, 12, 11)),
        (lambda x, y: ms_ssim(x, y, 1.0), (2, 1, 3, 23, 21)),
        (lambda x, y: ms_ssim(x, y, 1.0), (1, 1, 12, 12, 13)),
    ],
)
def test_similarity(measure: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        with kernels_on_all_devices():
            return measure(x, y)

    check(kernel, measure, pair(*shape), torch.arange(1.0, 1 + shape[0], device=DEVICE))


def test_similarity_of_the_authors() -> None:
    x, y = pair(1, 1, 16, 16, 16)
    with kernels_on_all_devices():
        similarity = authors_ms_ssim(x, y)
    assert float(similarity) == pytest.approx(float(authors_ms_ssim(x.double(), y.double())), rel=1e-5)


def test_only_the_gradient_of_the_output_is_computed() -> None:
    x, y = pair(1, 1, 16, 12)
    x.requires_grad_()
    with kernels_on_all_devices():
        ssim_and_ms_ssim(x, y, 1.0)[0].sum().backward()
    expected = x.detach().double().requires_grad_()
    ssim_and_ms_ssim(expected, y.double(), 1.0)[0].sum().backward()
    assert x.grad is not None
    assert expected.grad is not None
    assert float((x.grad - expected.grad).abs().max() / expected.grad.abs().max()) < 1e-5
