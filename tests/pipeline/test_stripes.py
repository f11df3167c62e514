from functools import cache

import pytest
import torch
from torch import Tensor, nn

from pipeline.convolutions.memory_format import channels_last, lay_out
from pipeline.models import DDnet
from pipeline.models.ddnet import LEVELS
from pipeline.models.stripes import ROWS
from pipeline.settings.training import Norm
from pipeline.training.memory import Dataless, LiveBytes
from tests.pipeline.networks import lively

HEIGHT = 48


@cache
def whole_run(norm: Norm, dims: int, residual: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, samples (in 2D two, whose statistics are apart) and its output, of which nothing was in stripes."""
    torch.manual_seed(0)
    model = lively(DDnet(dims, residual=residual, norm=norm)).double().eval()
    for parameter in model.get_submodule(f"up.{LEVELS - 1}.reduce.conv").parameters():
        nn.init.normal_(parameter)  # residual networks have zeros there
    sides = (HEIGHT, 32) if dims == 2 else (16, HEIGHT, 16)
    x = (
        torch.rand(2 if dims == 2 else 1, 1, *sides, dtype=torch.float64)
        + torch.linspace(0, 3, HEIGHT, dtype=torch.float64)[:, None]
    )
    return model, x, model(x).detach()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(("dims", "residual"), [(2, True), (2, False), (3, True), (3, False)])
@pytest.mark.parametrize("rows", [16, 20])
def test_stripes_are_the_whole_up_to_rounding_everywhere(
    norm: Norm, dims: int, residual: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the seams and at the image's borders too."""
    model, x, unstriped = whole_run(norm, dims, residual)
    monkeypatch.setattr("pipeline.models.stripes.ROWS", rows)
    with torch.no_grad():
        striped = model(x)
    assert not torch.equal(striped, unstriped)  # else nothing was done in stripes
    assert striped.shape == unstriped.shape
    torch.testing.assert_close(striped, unstriped, rtol=0, atol=1e-11 * float(unstriped.std()))


def test_statistics_of_a_batch_are_not_taken_in_stripes() -> None:
    torch.manual_seed(0)
    model, x = DDnet(2).train(), torch.rand(1, 1, 2 * ROWS, 32)
    with torch.no_grad():
        output = model(x)
    assert torch.equal(output, model(x))


def peak(model: nn.Module, slices: int, side: int) -> int:
    with Dataless(), LiveBytes() as live, torch.no_grad():
        x = torch.ones(1, 1, slices, side, side).contiguous(memory_format=channels_last(3))
        peak_bytes: int = live.peak_of(lambda: model(x))
    return peak_bytes


@pytest.mark.slow
def test_a_plane_of_four_times_the_pixels_needs_no_more_than_the_whole_level_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Dataless():
        model = lay_out(DDnet(3, norm="group", residual=True), 3).eval()
    striped, large = peak(model, 32, 512), peak(model, 16, 1024)
    monkeypatch.setattr("pipeline.models.stripes.ROWS", 1024)
    unstriped = peak(model, 32, 512)
    sizes = " and ".join(f"{size / 2**30:.2f} GiB" for size in (unstriped, striped, large))
    print(f"32 x 512 x 512, the same in stripes, 16 x 1024 x 1024 in stripes: {sizes}")
    assert striped < 0.5 * unstriped
    assert large < unstriped
