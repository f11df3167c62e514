"""Noise, edges and bias against closed forms."""

from collections.abc import Sequence

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter, label
from scipy.special import erf

from data_prep.volume import CTVolume
from pipeline.quality import edges, noise_power, tissue
from pipeline.quality.anatomy import survey
from pipeline.quality.edges import SMOOTHING, STRONG
from pipeline.quality.noise_power import BLOCK, RING, Noise, uniform_blocks
from pipeline.quality.tissue import TISSUES, body, smoothed
from tests.scans import chest

SPACING = (0.8, 0.6)
Volume = NDArray[np.float64]


def tensor(volume: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.array(volume))


def sharpness(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> float | None:
    return edges.sharpness(tensor(image), tensor(full), spacing)


def noise(image: NDArray[np.generic], full: NDArray[np.generic], spacing: Sequence[float]) -> Noise:
    uniform = survey(full, np.ones(full.shape, bool)).uniform
    return noise_power.noise(tensor(image), tensor(full), uniform, spacing)


def tissue_bias(
    image: NDArray[np.generic], full: NDArray[np.generic], inside: NDArray[np.bool_]
) -> dict[str, float | None]:
    return tissue.tissue_bias(tensor(image), tensor(full), survey(full, inside).tissue)


def soft(slices: int = 8, side: int = 20 * BLOCK) -> Volume:
    return np.full((slices, side, side), 50.0)


def white(sd: float, shape: tuple[int, ...], seed: int = 0) -> Volume:
    return np.random.default_rng(seed).normal(0, sd, shape)


def test_white_noise_has_a_flat_spectrum() -> None:
    full = soft()
    measured = noise(full + white(30, full.shape), full, SPACING)
    assert measured.blocks == 8 * 20**2
    assert measured.sd is not None
    assert measured.sd == pytest.approx(30, rel=0.005)
    np.testing.assert_allclose(measured.nps, 30**2 * 0.8 * 0.6, rtol=0.02)
    frequency = np.hypot(np.fft.fftfreq(BLOCK, 0.8)[:, None], np.fft.fftfreq(BLOCK, 0.6))
    assert measured.mean_frequency == pytest.approx(frequency.ravel()[1:].mean(), rel=0.01)
    counts = np.bincount((frequency.ravel()[1:] / RING).astype(int))
    areas = counts[counts > 0] / (BLOCK**2 * 0.8 * 0.6)
    assert np.dot(measured.nps, areas) == pytest.approx(measured.sd**2)  # Parseval


def test_what_the_full_dose_shows_is_no_noise() -> None:
    full = soft(2) + white(20, soft(2).shape, seed=1)
    assert noise(full, full, SPACING).sd == 0
    assert noise(full + white(30, full.shape), full, SPACING).sd == pytest.approx(30, rel=0.01)


def test_filtered_noise_has_the_filters_power() -> None:
    """A Gaussian of s pixels leaves exp(-(2 pi s p f)^2) of the power, p the pixel."""
    full, (width, pixel) = soft(), (1.0, 0.7)
    filtered = gaussian_filter(white(30, full.shape), (0, width, width), mode="wrap")
    measured = noise(full + filtered, full, (pixel, pixel))
    assert measured.sd == pytest.approx(30 / (2 * np.sqrt(np.pi) * width), rel=0.02)
    frequency, nps = np.array(measured.frequency), np.array(measured.nps)
    middle = (frequency > 0.1) & (frequency < 0.4)
    expected = 30**2 * pixel**2 * np.exp(-((2 * np.pi * width * pixel * frequency) ** 2))
    np.testing.assert_allclose(nps[middle], expected[middle], rtol=0.12)  # rings have a width
    assert measured.mean_frequency is not None
    assert measured.mean_frequency < 0.25


def test_blocks_lie_in_even_soft_tissue_alone() -> None:
    full = chest(1, 512)[0]
    uniform = uniform_blocks(smoothed(full))
    assert uniform.sum() > 20
    cut = full[: 21 * BLOCK, : 21 * BLOCK].reshape(21, BLOCK, 21, BLOCK)
    assert (cut.min((1, 3))[uniform] >= 0).all()
    stripes = soft(1)[0]
    stripes[:, ::2] += 40
    assert uniform_blocks(smoothed(stripes)).sum() == 400  # finer than the means of 5 x 5
    stripes[:, BLOCK // 2 :: BLOCK] += 400
    assert not uniform_blocks(smoothed(stripes)).any()


def test_without_soft_tissue_there_is_no_number() -> None:
    air = np.full((2, 64, 64), -1000.0)
    assert noise(air + 1, air, SPACING).sd is None
    assert sharpness(air + 1, air, SPACING) is None
    assert not body(air).any()
    assert set(tissue_bias(air + 1, air, body(air)).values()) == {None}


@pytest.mark.parametrize("blur", [0.0, 2.0, 4.0])
def test_a_blurred_edge_has_its_closed_form(blur: float) -> None:
    """Gradients of erf edges are Gaussians a, b; their product's integral over |x| < w is that of a Gaussian."""
    edge, pixel, step = 3.0, 0.7, 1000.0  # widths in pixels
    x = np.arange(-40, 41.0)

    def volume(width: float) -> Volume:
        return np.broadcast_to(step / 2 * erf(x / (np.sqrt(2) * width)), (2, 32, len(x)))

    def product(width: float) -> float:
        total = width**2 + template**2
        return float(erf(half * np.sqrt(total / 2) / (width * template)) / np.sqrt(total))

    template = np.hypot(edge, SMOOTHING)
    peak = step / pixel / (np.sqrt(2 * np.pi) * template)
    half = template * np.sqrt(2 * np.log(peak / STRONG))
    expected = product(np.hypot(edge, blur)) / product(edge)
    image = volume(np.hypot(edge, blur))
    assert sharpness(image, volume(edge), (pixel, pixel)) == pytest.approx(expected, rel=0.02)
    mirrored = image.transpose(0, 2, 1)
    assert sharpness(mirrored, volume(edge).transpose(0, 2, 1), (pixel, pixel)) == pytest.approx(expected, rel=0.02)


def test_noise_alone_leaves_sharpness_at_one() -> None:
    full = chest(8, 256)
    assert sharpness(full + white(40, full.shape), full, SPACING) == pytest.approx(1, abs=0.005)
    blurred = gaussian_filter(full.astype(float), (0, 1, 1))
    clean, noisy = (sharpness(blurred + n, full, SPACING) for n in (0.0, white(40, full.shape)))
    assert noisy == pytest.approx(clean, abs=0.005)
    assert clean is not None
    assert clean < 0.8


@pytest.mark.parametrize(("name", "hu"), [("lung", -850), ("soft", 50), ("bone", 700), ("fat", -80)])
def test_a_bias_is_told_by_tissue(name: str, hu: int) -> None:
    full = np.full((2, 40, 60), hu, np.int16)
    image = full + np.linspace(-3, 10, 60)
    biases = tissue_bias(image, full, np.ones(full.shape, bool))
    assert biases.pop(name, 3.5) == pytest.approx(3.5)
    assert set(biases.values()) == {None}


def test_a_clean_image_is_not_biased_by_the_noise_of_the_full_dose() -> None:
    """By single pixels, those of 30 HU noise in tissue near 0 HU would seem far too dark."""
    truth = soft() - 40
    full = truth + white(30, truth.shape)
    by_pixel = (truth - full)[(full >= 0) & (full <= 100)].mean()
    assert by_pixel < -10
    bias = tissue_bias(truth, full, np.ones(full.shape, bool))["soft"]
    assert bias is not None
    assert abs(bias) < 1


def test_gradients_and_their_smoothing_are_numpys_and_scipys() -> None:
    """And a scan of more slices than are measured at once has the sums of all of them."""
    full = chest(5, 64) + white(20, (5, 64, 64))
    image = 0.9 * full + white(20, full.shape, 1)
    of_image, of_full = 0.0, 0.0
    for plane, reference in zip(image, full, strict=True):
        template = np.array(np.gradient(gaussian_filter(reference, SMOOTHING, mode="nearest"), *SPACING))
        template *= np.hypot(*template) > STRONG
        of_image += (np.array(np.gradient(plane, *SPACING)) * template).sum()
        of_full += (np.array(np.gradient(reference, *SPACING)) * template).sum()
    assert sharpness(image, full, SPACING) == pytest.approx(of_image / of_full, rel=1e-12)


def test_each_pixel_and_block_of_all_slices_counts_once() -> None:
    full = chest(5, 96)
    full[:, : 2 * BLOCK + 5, : 2 * BLOCK + 5] = 50
    image = full + white(20, full.shape)
    difference, even = image - full, np.stack([smoothed(plane) for plane in full])
    low, high = TISSUES["lung"]
    lung = difference[(even >= low) & (even <= high)].mean()
    assert tissue_bias(image, full, np.ones(full.shape, bool))["lung"] == pytest.approx(lung, rel=1e-12)
    blocks = [
        difference[z, top : top + BLOCK, left : left + BLOCK]
        for z, rows in enumerate(map(uniform_blocks, even)) for top, left in BLOCK * np.argwhere(rows)
    ]  # fmt: skip
    power = sum(np.abs(np.fft.fft2(block - block.mean())) ** 2 for block in blocks)
    measured = noise(image, full, SPACING)
    assert measured.blocks == len(blocks) == 5 * 4
    assert measured.sd == pytest.approx(np.sqrt(np.sum(power) / (len(blocks) * BLOCK**4)), rel=1e-12)


def ellipse(width: float, height: float, x: float = 0) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[-1:1:256j, -1:1:256j]
    return np.asarray(((columns - x) / width) ** 2 + (rows / height) ** 2 < 1)


def test_what_lies_outside_the_body_is_no_tissue() -> None:
    """Foam and a blanket as light as lung, a table's shell like soft tissue and a rail like bone."""
    trunk, lungs = ellipse(0.9, 0.7), ellipse(0.3, 0.5, -0.4) | ellipse(0.3, 0.5, 0.4)
    plane = np.select([lungs, trunk, ellipse(0.95, 0.75)], [-850.0, 40.0, -850.0], -1000.0)
    plane[215:232], plane[232:240], plane[240:250, 100:150] = -850, 60, 700
    full = np.stack([plane] * 3)
    image = full + np.select([lungs, trunk], [7, 0], 100)
    assert tissue_bias(image, full, body(full)) == {"lung": 7, "soft": 0, "bone": None}
    everywhere = tissue_bias(image, full, np.ones(full.shape, bool))
    assert everywhere["lung"] == pytest.approx(30, abs=10)
    assert everywhere["bone"] == 100


@pytest.mark.parametrize("level", [-400, -300, -200])
def test_the_body_is_filled_and_eroded_as_by_scipy(level: float) -> None:
    """Blobs of each size, some cut by the border; more or less of the plane is dense."""
    planes = np.stack([
        level + 4000 * gaussian_filter(np.random.default_rng(seed).normal(size=(96, 80)), 1 + seed) for seed in range(4)
    ])  # fmt: skip
    for plane, inside in zip(planes, body(planes), strict=True):
        pieces, count = label(smoothed(plane) > -300)
        trunk = pieces == max(range(1, count + 1), key=lambda number: int((pieces == number).sum()))
        np.testing.assert_array_equal(inside, binary_erosion(binary_fill_holes(trunk), iterations=2, border_value=1))
        assert 0 < inside.sum() < inside.size


def test_table_blanket_and_skin_of_a_real_scan_are_no_lung(sample: CTVolume) -> None:
    """The body after SimpleITK: denser than -500 HU, opened, the largest piece of the volume, holes filled."""
    full = sample.hu[40:46]
    dense = sitk.BinaryMorphologicalOpening(sitk.GetImageFromArray(full) > -500, [5, 5, 0])
    trunk = sitk.RelabelComponent(sitk.ConnectedComponent(dense)) == 1
    reference = sitk.GetArrayFromImage(sitk.JoinSeries([sitk.BinaryFillhole(trunk[:, :, z]) for z in range(6)])) == 1
    even = np.stack([smoothed(plane) for plane in full])
    light = (even >= TISSUES["lung"][0]) & (even <= TISSUES["lung"][1])
    assert (light & ~reference).sum() / light.sum() == pytest.approx(0.46, abs=0.02)
    lung = light & body(full)
    assert (lung & ~reference).sum() / lung.sum() < 0.001
    assert (lung & reference).sum() / (light & reference).sum() > 0.98
