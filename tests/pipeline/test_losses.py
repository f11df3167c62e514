import json

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity

from pipeline.losses import CompositeLoss
from pipeline.quality.ssim import authors_ms_ssim, ms_ssim, ssim_and_ms_ssim
from tests.beside import shared_file


def noisy_pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    for axis in range(2, x.dim()):
        x = (x + x.roll(1, axis) + x.roll(2, axis)) / 3
    return x, (x + 0.1 * torch.randn(shape, generator=generator))


def test_ms_ssim_equals_an_independent_library() -> None:
    x, y = noisy_pair(3, 1, 192, 240)
    torch.testing.assert_close(ms_ssim(x, y, 1.0), pytorch_msssim.ms_ssim(x, y, 1.0, size_average=False))
    torch.testing.assert_close(ssim_and_ms_ssim(x, y, 1.0)[0], pytorch_msssim.ssim(x, y, 1.0, size_average=False))


@pytest.mark.slow
def test_ms_ssim_in_3d_equals_an_independent_library() -> None:
    """Five scales want 161 voxels a side."""
    x, y = noisy_pair(1, 1, 161, 164, 168)
    torch.testing.assert_close(ms_ssim(x, y, 1.0), pytorch_msssim.ms_ssim(x, y, 1.0, size_average=False))


def test_ssim_in_3d_equals_an_independent_library() -> None:
    x, y = noisy_pair(1, 1, 16, 24, 32)
    torch.testing.assert_close(
        ssim_and_ms_ssim(x, y, 1.0)[0], pytorch_msssim.ssim(x, y, 1.0, size_average=False), rtol=1e-5, atol=1e-6
    )


def test_ssim_is_near_scikit_image_which_pads() -> None:
    x, y = noisy_pair(1, 1, 256, 256)
    reference = structural_similarity(
        x[0, 0].double().numpy(), y[0, 0].double().numpy(),
        data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert float(ssim_and_ms_ssim(x, y, 1.0)[0]) == pytest.approx(reference, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 64, 64), (2, 1, 32, 64, 64), (1, 1, 16, 16, 16), (2, 1, 64, 64), (1, 1, 16, 512, 512)]
)
def test_ms_ssim_is_one_for_equal_images_and_has_a_finite_gradient(shape: tuple[int, ...]) -> None:
    x, y = noisy_pair(*shape)
    torch.testing.assert_close(ms_ssim(x, x, 1.0), torch.ones(shape[0]))
    opposite = (1 - x).requires_grad_()
    CompositeLoss(0.1, "wang", 1.0)(opposite, x).backward()
    assert opposite.grad is not None
    assert opposite.grad.isfinite().all()
    assert (ms_ssim(y, x, 1.0) < 1).all()


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 1, 16, 16, 16), (1, 1, 8, 16, 16)])
def test_the_authors_variant_takes_the_smallest_crops(shape: tuple[int, ...]) -> None:
    """In 2D its fifth scale has a single pixel, in 3D its fourth of 8 slices a single slice."""
    x, y = noisy_pair(*shape)
    assert float(CompositeLoss(0.1, "authors", 1.0)(x, x)) == 0
    output = y.requires_grad_()
    loss = CompositeLoss(0.1, "authors", 1.0)(output, x)
    loss.backward()
    assert 0 < float(loss.detach()) < 1
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_the_authors_variant_gives_their_golden_values() -> None:
    golden = json.loads(shared_file("ddnet/golden_loss.json").read_text())
    with np.load(shared_file("ddnet/golden_forward.npz")) as arrays:
        x, y = (torch.from_numpy(arrays[name])[None, None] for name in ("input", "target"))
    assert float(authors_ms_ssim(x, y)) == pytest.approx(golden["msssim_3d_simple_4_levels"], abs=1e-5)
    assert float(authors_ms_ssim(x, y, mapped=False)) == pytest.approx(golden["msssim_3d_no_normalize"], abs=1e-5)
    assert float(authors_ms_ssim(x[:, :, 0], y[:, :, 0])) == pytest.approx(
        golden["msssim_2d_first_slice_simple"], abs=1e-5
    )
    assert float(CompositeLoss(0.1, "authors", 1.0)(x, y)) == pytest.approx(golden["composite_3d"], abs=1e-5)
    assert float(CompositeLoss(0.0, "authors", 1.0)(x, y)) == pytest.approx(golden["mse"], abs=1e-8)
