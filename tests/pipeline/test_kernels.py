"""Our kernels give the numbers of torch's operators in float64, forward and backward, twice the same."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.kernels import choice
from pipeline.kernels.activation import add_bias_and_activate
from pipeline.kernels.choice import kernels_on_all_devices, uses_kernels
from pipeline.kernels.group_norm import group_norm
from pipeline.kernels.pooling import max_pool
from pipeline.kernels.upsampling import double_and_join
from tests.pipeline.kernels import DEVICE, ORDERS, check, difference, gradients, image, of_kernels

pytestmark = of_kernels
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def vector(channels: int, seed: int = 1) -> Tensor:
    return torch.randn(channels, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "channels", "groups", "sides"),
    [(2, 1, 1, (5, 7)), (1, 16, 1, (2, 3, 5)), (2, 80, 5, (3, 7)), (2, 48, 3, (1, 1)), (1, 20, 1, (3, 3, 3))],
)
def test_group_norm(batch: int, channels: int, groups: int, sides: tuple[int, ...], dtype: torch.dtype) -> None:
    def kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return group_norm(x, groups, scale, shift, 1e-5)

    def exact(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.group_norm(x, groups, scale, shift, 1e-5)

    x = image(batch, channels, *sides, dtype=dtype)
    check(
        kernel, exact, (x, vector(channels), vector(channels, 2)), image(batch, channels, *sides, dtype=dtype, seed=3)
    )
    assert kernel(x, vector(channels), vector(channels)).is_contiguous(memory_format=ORDERS[len(sides)])


def test_group_norm_alone_standardises() -> None:
    x, upstream = image(2, 32, 4, 5), image(2, 32, 4, 5, seed=1)
    check(lambda x: group_norm(x, 2, None, None, 1e-5), lambda x: F.group_norm(x, 2, None, None, 1e-5), (x,), upstream)


def test_group_norm_of_many_tiles_far_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of such numbers have no bits left for the deviations; the first block is air, unlike the others."""
    from pipeline.kernels.programs import tiles

    monkeypatch.setattr(tiles, "BLOCKS", 2)
    tiles.tile.cache_clear()
    assert tiles.tile(500, 16) == (256, 256, 2, 16)
    x = image(1, 16, 20, 25) * 0.01 + 30
    x[:, :, :2] = 0
    x = x.contiguous(memory_format=torch.channels_last)
    y = group_norm(x, 1, None, None, 1e-5)
    tiles.tile.cache_clear()
    expected = F.group_norm(x.double(), 1, None, None, 1e-5)
    assert difference(y, expected) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.01, 1.0])
@pytest.mark.parametrize("shape", [(2, 16, 3, 5), (1, 1, 2, 3, 4), (3, 10, 1, 1)])
def test_bias_and_activation(shape: tuple[int, ...], slope: float, dtype: torch.dtype) -> None:
    def kernel(y: Tensor, bias: Tensor) -> Tensor:
        return add_bias_and_activate(y * 1, bias, slope)

    def exact(y: Tensor, bias: Tensor) -> Tensor:
        return F.leaky_relu(y + bias.reshape(-1, *[1] * (y.dim() - 2)), slope)

    part = image(shape[0], 2 * shape[1], *shape[2:], dtype=dtype, seed=3)[:, shape[1] :]  # as of a concatenation
    check(kernel, exact, (image(*shape, dtype=dtype), vector(shape[1])), part)


def test_rows_are_activated_in_their_memory() -> None:
    rows, bias, upstream = vector(30).reshape(15, 2), vector(2), vector(30, 2).reshape(2, 15).t()
    check(
        lambda y, bias: add_bias_and_activate(y * 1, bias, 0.1),
        lambda y, bias: F.leaky_relu(y + bias, 0.1),
        (rows, bias),
        upstream,
    )
    y = rows.clone()
    assert add_bias_and_activate(y, bias, 0.1).data_ptr() == y.data_ptr()
    assert add_bias_and_activate(y.view(5, 6), torch.zeros(6, device=DEVICE), 0.1).data_ptr() != y.data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 2, 3, 4), (1, 16, 1, 5), (1, 20, 2, 1, 6), (1, 2, 9, 11)])
def test_upsampling(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mode = {2: "bilinear", 3: "trilinear"}[len(shape) - 2]

    def exact(x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([F.interpolate(x, scale_factor=2, mode=mode, align_corners=True), skip], 1)

    (batch, channels, *sides), doubled = shape, [2 * side for side in shape[2:]]
    x, skip = image(batch, channels, *sides, dtype=dtype), image(batch, 3, *doubled, dtype=dtype, seed=1)
    upstream = image(batch, channels + 3, *doubled, dtype=dtype, seed=2)
    check(double_and_join, exact, (x, skip), upstream)
    if dtype == torch.float32:
        outputs = gradients(double_and_join, (x, skip), upstream)
        expected = gradients(exact, (x.double(), skip.double()), upstream.double())
        assert max(map(difference, outputs, expected)) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 4, 5, 6), (1, 16, 3, 8), (1, 20, 2, 1, 5)])
def test_max_pooling(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(shape) - 2]
    exact = partial(pool, kernel_size=3, stride=2, padding=1)
    x = image(*shape, dtype=dtype)
    upstream = image(shape[0], 2 * shape[1], *((side + 1) // 2 for side in shape[2:]), dtype=dtype, seed=1)
    check(max_pool, exact, (x,), upstream[:, : shape[1]])
    x[0, 0] = float("nan")
    assert torch.equal(max_pool(x).isnan(), exact(x).isnan())


def test_kernels_are_for_gpus() -> None:
    x = torch.zeros(1)
    assert not uses_kernels(x)
    with FakeTensorMode():
        assert uses_kernels(torch.empty(1, device="cuda"))
    with kernels_on_all_devices():
        assert uses_kernels(x)
        assert uses_kernels(x.bfloat16())
        assert not uses_kernels(x.double())
    assert not uses_kernels(x)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("HAS_TRITON", "triton is not installed"), ("HAS_COMPILER", "triton finds no C compiler (gcc, clang or $CC)")],
)
def test_without_triton_or_a_compiler_a_gpu_takes_torchs_operators_and_says_so_once(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, name, False)
    choice._warn.cache_clear()
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
        assert not uses_kernels(x)
        assert not uses_kernels(x)
    choice._warn.cache_clear()
    assert capsys.readouterr().out.count(f"{reason}: on this GPU torch's own, slower operators") == 1
