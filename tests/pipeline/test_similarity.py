import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.intensity import scaling
from pipeline.quality.judge import scan_row, slab_row, slice_numbers, slice_rows
from pipeline.quality.ssim import ms_ssim
from tests.scans import chest


def test_known_errors_give_their_closed_form() -> None:
    full = chest(2, 192)
    image = full.astype(np.float32)
    image[0] += 20
    first, second = slice_rows(slice_numbers(torch.from_numpy(image), torch.from_numpy(full)))
    assert first["rmse_hu"] == pytest.approx(20)
    assert first["mse"] == pytest.approx((20 / 4096) ** 2)
    assert first["psnr"] == pytest.approx(20 * math.log10(4096 / 20))
    assert first["psnr"] == pytest.approx(
        peak_signal_noise_ratio(full[0].astype(float), image[0].astype(float), data_range=4096)
    )
    assert first["ssim"] < 1
    assert (second["rmse_hu"], second["psnr"]) == (0, math.inf)
    assert second["ssim"] == pytest.approx(1)
    assert second["ms_ssim"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["hu", "unit", "minmax"])
def test_scalings_go_there_and_back(name: str) -> None:
    hu = chest(3)
    scale = scaling(name, hu)  # type: ignore[arg-type]
    np.testing.assert_allclose(scale.to_network(hu) * scale.width + scale.offset, hu, atol=2e-3)


def test_scalings_map_what_they_say() -> None:
    hu = np.array([-1024, 100, 3072], np.int16)
    assert scaling("hu", hu).to_network(hu).tolist() == pytest.approx([-10.24, 1, 30.72])
    assert scaling("unit", hu).to_network(hu).tolist() == pytest.approx([0, 1124 / 4096, 1])
    assert scaling("minmax", hu[:2]).to_network(hu[:2]).tolist() == [0, 1]
    assert torch.isfinite(torch.from_numpy(scaling("minmax", hu[:1]).to_network(hu[:1]))).all()


def test_a_scan_has_the_error_of_all_its_voxels() -> None:
    full = chest(3, 192)
    image = full + np.array([10.0, 20, 20])[:, None, None]
    scan = scan_row(slice_numbers(torch.from_numpy(image), torch.from_numpy(full)))
    assert scan["rmse_hu"] == pytest.approx(math.sqrt(np.mean((image - full) ** 2)))
    assert scan["psnr"] == pytest.approx(peak_signal_noise_ratio(full.astype(float), image, data_range=4096))


def test_similarity_in_3d_knows_neighbours_along_z() -> None:
    """In slabs of even size, each as the loss computes it."""
    full = chest(40, 192)
    image = full + np.random.default_rng(0).normal(0, 40, full.shape)
    scale = scaling("unit", full)
    x, y = (torch.from_numpy(scale.to_network(np.clip(a, -1024, 3072)))[None, None] for a in (image, full))
    slabs = [[a[:, :, z : z + 20] for a in (x, y)] for z in (0, 20)]
    tensors = torch.from_numpy(image), torch.from_numpy(full)
    similarity = slab_row(*tensors)
    assert similarity["ms_ssim_3d"] == pytest.approx(np.mean([float(ms_ssim(a, b, 1.0)) for a, b in slabs]))
    expected = [
        structural_similarity(*(a[0, 0].double().numpy() for a in slab), data_range=1.0, gaussian_weights=True,
                              use_sample_covariance=False)
        for slab in slabs
    ]  # fmt: skip
    assert similarity["ssim_3d"] == pytest.approx(np.mean(expected), abs=1e-4)
