import json

import numpy as np
import pytest
import pytorch_msssim
import scipy.signal
import skimage.measure
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from pipeline.intensity import ScalingName
from pipeline.losses import CompositeLoss, build_loss
from pipeline.quality.ssim import authors_ms_ssim, ms_ssim, ssim_and_ms_ssim
from pipeline.settings.training import TrainingSettings
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


@pytest.mark.parametrize(("scaling", "data_range"), [("hu", 20.0), ("unit", 1.0), ("minmax", 1.0)])
def test_the_loss_is_the_squared_error_and_a_share_of_what_is_unlike(scaling: ScalingName, data_range: float) -> None:
    x, y = (data_range * image for image in noisy_pair(2, 1, 176, 176))
    error, similarity = torch.mean((x - y) ** 2), pytorch_msssim.ms_ssim(x, y, data_range)
    for weight in (0.0, 0.02, 0.5):
        loss = build_loss(TrainingSettings(scaling=scaling, ms_ssim_weight=weight))
        torch.testing.assert_close(loss(x, y), error + weight * (1 - similarity))


@pytest.mark.parametrize("shape", [(48, 64), (16, 24, 32), (8, 24, 24)])
def test_ms_ssim_of_small_images_is_that_of_its_formula(shape: tuple[int, ...]) -> None:
    """On fewer scales, with weights of the same sum, and along z in a window as long as the volume."""
    x, y = noisy_pair(1, 1, *shape)
    scales = 3 if len(shape) == 2 else 2
    weights, factors = np.array([0.0448, 0.2856, 0.3001][:scales]), []
    images = [image[0, 0].double().numpy() for image in (x, y)]
    for scale in range(scales):
        full, contrast = _plain_similarity(*images)
        factors.append(full if scale == scales - 1 else contrast)
        images = [skimage.measure.block_reduce(image, 2, np.mean) for image in images]
    expected = np.prod(np.array(factors) ** (weights / weights.sum()))
    assert float(ms_ssim(x, y, 1.0)) == pytest.approx(expected, abs=1e-5)


def _plain_similarity(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    def mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis, side in enumerate(image.shape):
            window = scipy.signal.windows.gaussian(min(side, 11), 1.5)
            image = np.apply_along_axis(np.convolve, axis, image, window / window.sum(), "valid")
        return image

    mean_x, mean_y = mean(x), mean(y)
    variances, covariance = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    contrast = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * contrast).mean()), float(contrast.mean())


def test_the_gradient_is_finite_where_images_are_opposite() -> None:
    """Where similarity is negative, as of a network that has just begun."""
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ms_ssim(-x, x, 20.0), torch.tensor([1e-6]))  # each scale's is, and counts as so much
    output = (-x).requires_grad_()
    build_loss(TrainingSettings())(output, x).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_the_authors_range_is_255_where_an_image_exceeds_128() -> None:
    x, y = (image.clamp(0.01, 1) for image in noisy_pair(1, 1, 64, 64))
    assert 128 < 255 * float(x.max()) < 255
    torch.testing.assert_close(authors_ms_ssim(255 * x, 255 * y), authors_ms_ssim(x, y))


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
