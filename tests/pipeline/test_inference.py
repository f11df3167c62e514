"""Scans of every length and size through a network, slice by slice."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import product
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from data_prep.errors import ScanError
from data_prep.originals import Original
from data_prep.volume import Numbers
from pipeline.convolutions.layers import use_algorithms
from pipeline.inference.corrector import Corrector, add_change
from pipeline.inference.scan import ArrayScan, Scan, denoise_slices
from pipeline.inference.windows import plan_windows
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings
from tests.pipeline.cells import cell
from tests.scans import Hu, chest

CPU = torch.device("cpu")


def original(hu: Hu, padding: Callable[[int], np.ndarray] | None = None) -> Original:
    """A scan as its files hold it; ``padding``: a slice's mask."""
    no_padding = np.zeros(hu.shape[1:], np.bool_)
    return Original(
        len(hu), hu.shape[1:], (2.5, 0.7, 0.7), np.eye(4), lambda z: (hu[z], padding(z) if padding else no_padding)
    )


def denoised(network: nn.Module, settings: CellSettings, scan: Scan, device: torch.device = CPU) -> Hu:
    return np.stack(list(denoise_slices(scan, Corrector(network.eval(), settings, device))))


class Lowered(nn.Module):
    """Network that subtracts 10 HU, in the units of HU / 100."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1


@pytest.mark.parametrize("sampling", ["window", "grouped", "strided"])
@pytest.mark.parametrize("available", [3, 15, 16, 17, 28, 29, 100, 133])
def test_windows_cover_every_slice_with_weights_of_one(sampling: str, available: int) -> None:
    plan = plan_windows(cell(3).model_copy(update={"sampling": sampling}), available)
    total = np.zeros(available)
    for window in plan:
        assert len(window.slices) == 16
        assert set(window.slices) <= set(range(available))
        for z, weight in zip(window.slices, window.weights, strict=False):
            total[z] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    if sampling == "window" and available >= 32:
        overlaps = [len(set(a.slices) & set(b.slices)) for a, b in zip(plan, plan[1:], strict=False)]
        assert max(overlaps) <= 8


def test_windows_share_a_quarter_of_their_slices_and_one_fades_into_the_next() -> None:
    (first, second) = plan_windows(cell(3), 28)
    assert (first.slices.tolist(), second.slices.tolist()) == ([*range(16)], [*range(12, 28)])
    falling = [1 - rank / 5 for rank in range(1, 5)]
    np.testing.assert_allclose(first.weights, [1] * 12 + falling, rtol=1e-6)
    np.testing.assert_allclose(second.weights, falling[::-1] + [1] * 12, rtol=1e-6)
    assert [len(plan_windows(cell(3), slices)) for slices in (16, 17, 28, 29, 40, 41)] == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("scaling", ["hu", "unit", "minmax"])
@pytest.mark.parametrize("sampling", ["window", "strided"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shape", [(5, 37, 50), (37, 64, 64)])
def test_a_network_that_returns_its_input_returns_the_scan(
    shape: tuple[int, int, int], dims: int, sampling: str, scaling: str
) -> None:
    hu = chest(shape[0], 64)[:, : shape[1], : shape[2]].copy()
    hu[2, :3] = 9000
    hu[1, 3:6] = -3024
    settings = cell(dims, residual=True, scaling=scaling).model_copy(update={"sampling": sampling})
    np.testing.assert_array_equal(denoised(build_network(settings), settings, original(hu)), hu)


def test_what_is_outside_of_the_window_or_padding_stays_and_the_rest_is_corrected() -> None:
    hu = chest(20, 64)
    hu[:, 0], hu[:, 1] = 5000, -3024
    padding = np.zeros((64, 64), np.bool_)
    padding[2] = True
    lowered = denoised(Lowered(), cell(3), original(hu, lambda z: padding))
    np.testing.assert_array_equal(lowered[:, :3], hu[:, :3])
    np.testing.assert_array_equal(lowered[:, 3:], hu[:, 3:] - 10)


@pytest.mark.parametrize(("change", "expected"), [(10, [-1025, -1014, 3072, 3073]), (-10, [-1025, -1024, 3062, 3073])])
def test_voxels_at_the_limits_are_corrected_up_to_the_limits(change: float, expected: list[int]) -> None:
    hu = np.array([[-1025, -1024, 3072, 3073]], np.int16)
    corrected = add_change(hu, np.zeros(hu.shape, np.bool_), np.full(hu.shape, change, np.float32))
    assert corrected.tolist() == [expected]


def test_a_plane_that_is_smaller_than_the_network_takes_is_denoised() -> None:
    settings = cell(2).model_copy(update={"model": "redcnn", "options": {"width": 4}})
    hu = chest(3, 64)[:, 24:40, 24:36].copy()
    np.testing.assert_array_equal(denoised(build_network(settings), settings, original(hu)), hu)


def test_slices_come_before_the_scan_is_read_to_its_end() -> None:
    hu, indices = chest(200, 32), []

    def note(z: int) -> np.ndarray:
        indices.append(z)
        return np.zeros((32, 32), np.bool_)

    slices = denoise_slices(original(hu, note), Corrector(Lowered(), cell(3), CPU))
    next(slices)
    assert max(indices) < 48
    assert len(list(slices)) == 199
    assert len(indices) <= 2 * 200


class Announcing(Corrector):
    """Takes 10 HU off, as if on a device of that type; tells when it has got the second volume."""

    def __init__(self, kind: str) -> None:
        super().__init__(Lowered(), cell(3), CPU)
        self.device, self.volumes, self.has_second = torch.device(kind), 0, Event()

    def __call__(self, hu: np.ndarray) -> np.ndarray:
        self.volumes += 1
        if self.volumes == 2:
            self.has_second.set()
        return np.full(hu.shape, -10, np.float32)


def test_a_gpu_works_on_the_next_volume_while_slices_are_written() -> None:
    hu, correct = chest(100, 32), Announcing("cuda")
    slices = denoise_slices(original(hu), correct)
    first = next(slices)
    assert correct.has_second.wait(timeout=60)
    np.testing.assert_array_equal(np.stack([first, *slices]), np.maximum(hu - 10, -1024))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_each_slice_is_read_once(kind: str) -> None:
    hu, indices = chest(100, 32), list[int]()

    def note(z: int) -> np.ndarray:
        indices.append(z)
        return np.zeros((32, 32), np.bool_)

    assert len(list(denoise_slices(original(hu, note), Announcing(kind)))) == 100
    assert indices == list(range(100))


@pytest.mark.parametrize("slices", [1, 2])
def test_a_slab_of_fewer_slices_than_a_file_may_hold_is_denoised(slices: int) -> None:
    hu = chest(slices, 32)
    lowered = denoised(Lowered(), cell(3), ArrayScan(hu))
    np.testing.assert_array_equal(lowered, np.maximum(hu - 10, -1024))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_crop_is_the_centre_of_the_whole_output_scaled_as_the_whole_slices(dims: int) -> None:
    """Of a network whose voxels do not see each other; ``minmax`` scales by extremes that lie outside of the crop."""
    hu = chest(5, 64)
    hu[2, 0, :2] = 5000, -3024
    hu[2, 32, 32] = 5000
    settings = cell(dims, scaling="minmax", residual=True)
    full = denoised(Lowered(), settings, ArrayScan(hu))
    crop = np.stack(list(denoise_slices(ArrayScan(hu), Corrector(Lowered(), settings, CPU, crop=32))))
    assert (full[0] != hu[0]).any()
    np.testing.assert_array_equal(crop, full[:, 16:48, 16:48])


class Float16Convolutions(TorchFunctionMode):
    """Computes convolutions in float16 as GPUs do, with sums in float32: on CPUs those in 3D take minutes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in (torch.conv3d, F.conv3d) or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(x.half().float() for x in args[:2]), *args[2:], **(kwargs or {})).half()


def corrections(dims: int, device: torch.device) -> tuple[Numbers, Numbers]:
    """Return the change of a network with random weights, HU: in float32 on the CPU, in float16 on the device."""
    hu, settings = chest(16 if dims == 3 else 4).astype(np.float32), cell(dims, residual=True, norm="group")
    torch.manual_seed(0)
    network = build_network(settings).eval()
    nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.02)
    exact, rounded = Corrector(copy.deepcopy(network), settings, CPU), Corrector(network, settings, device)
    rounded.uses_float16 = True
    return exact(hu), rounded(hu)


def rms(hu: Numbers) -> float:
    return float(np.sqrt(np.mean(np.square(hu, dtype=np.float64))))


@pytest.mark.parametrize("dims", [2, 3])
def test_float16_is_near_float32(dims: int) -> None:
    with Float16Convolutions() if dims == 3 else nullcontext():
        exact, rounded = corrections(dims, CPU)
    assert rms(exact) > 5
    assert 0.001 < rms(rounded - exact) / rms(exact) < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_float16_on_a_gpu_is_near_float32_on_the_cpu(dims: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    exact, rounded = corrections(dims, torch.device("cuda"))
    assert 0.001 < rms(rounded - exact) / rms(exact) < 0.02


class Loud(nn.Module):
    """Network that subtracts 10 HU, with features beyond the range of float16 where HU are above 655."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.convolution.weight, 1e4)

    def forward(self, x: Tensor) -> Tensor:
        nothing: Tensor = self.convolution(x) - self.convolution(x)
        return x - 0.1 + nothing


@pytest.mark.parametrize("largest", [200, 2000])
def test_features_beyond_float16_are_computed_in_float32(largest: int) -> None:
    hu = np.full((2, 32, 32), largest, np.float32)
    correct = Corrector(Loud(), cell(2, residual=True), CPU)
    correct.uses_float16 = True
    np.testing.assert_allclose(correct(hu), -10, atol=1e-3)


def test_algorithms_of_a_training_are_none_of_a_correction() -> None:
    """They are for its own shapes and precision: in float32 none of them would be there."""
    settings = cell(2, precision="bfloat16")
    network, hu = build_network(settings).eval(), chest(2, 64).astype(np.float32)
    change = Corrector(copy.deepcopy(network), settings, CPU)(hu)
    use_algorithms(network, {})
    np.testing.assert_array_equal(Corrector(network, settings, CPU)(hu), change)


class Broken(nn.Module):
    """Network whose output is no number in one voxel."""

    def forward(self, x: Tensor) -> Tensor:
        broken = x.clone()
        broken[..., 5, 5] = torch.nan
        return broken


def test_an_output_that_is_not_finite_is_no_denoised_scan() -> None:
    slices = denoise_slices(ArrayScan(chest(20, 32)), Corrector(Broken(), cell(3), CPU))
    with pytest.raises(ScanError, match=r"the output of network cell is not finite: take another model"):
        next(slices)


@pytest.mark.slow
def test_an_input_normalised_in_place_gives_the_same_output() -> None:
    """With gradients the plain norm runs, without them the norm in place."""
    for norm, dims in product(("group", "frozen"), (2, 3)):
        torch.manual_seed(0)
        network = build_network(cell(dims, norm=norm, residual=False)).eval().double()
        x = torch.randn(2, 1, *[64 // 2 ** (dims - 1)] * dims, dtype=torch.float64)
        before, expected = x.clone(), network(x).detach()
        with torch.inference_mode():
            in_place = network(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(in_place, expected, rtol=0, atol=1e-12)
