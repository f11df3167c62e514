import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.progress import ignore_progress
from data_prep.split import Part, Segment, Split
from pipeline.evaluate.denoisers import identity, load_denoiser
from pipeline.evaluate.judgement import evaluate
from pipeline.models import REDCNN, DDnet, build_network
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import EvaluateSettings
from pipeline.training.train import train
from pipeline.training.world import World
from tests.plain_redcnn import plain_red_cnn


def layers(model: nn.Module, kind: str) -> list[Tensor]:
    return [parameter for name, parameter in model.named_parameters() if name.endswith(kind)]


def lively(model: nn.Module) -> nn.Module:
    """Wide weights and no zeros, so that every layer and shortcut tells in the output."""
    torch.manual_seed(3)
    for weight in layers(model, "weight"):
        nn.init.normal_(weight, 0, 0.03)
    for bias in layers(model, "bias"):
        nn.init.normal_(bias, 0, 0.1)
    return model


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_network_written_plainly_in_output_and_gradients(residual: bool, channels_last: bool) -> None:
    model = lively(REDCNN(residual=residual)).double()
    x = torch.randn(2, 1, 21, 34, dtype=torch.float64)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    expected = plain_red_cnn(x, layers(model, "weight"), layers(model, "bias"), last_relu=not residual)
    output, chosen = model(x), torch.randn_like(x)
    assert (expected < 0).any() == residual
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad((y * chosen).sum(), list(model.parameters())) for y in (output, expected))
    for our_grad, their_grad in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
def test_the_papers_parameters_and_their_start(residual: bool) -> None:
    torch.manual_seed(0)
    model = REDCNN(residual=residual).requires_grad_(requires_grad=False)
    assert sum(p.numel() for p in model.parameters()) == 1_848_865
    assert all(bias.abs().max() == 0 for bias in layers(model, "bias"))
    deviations = [float(weight.std()) for weight in layers(model, "weight")]
    assert deviations[1:9] == pytest.approx([0.01] * 8, rel=0.01)  # 230,400 weights each
    assert deviations[9] == (0 if residual else pytest.approx(0.01, rel=0.1))


def test_an_untrained_residual_network_returns_its_input_and_learns() -> None:
    model, x = REDCNN(residual=True), torch.randn(1, 1, 21, 40)
    assert torch.equal(model(x), x)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):  # the second step moves what lies before the zeros
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert all(float(p.grad.abs().max()) > 0 for p in model.parameters() if p.grad is not None and p.dim() > 1)
    assert float(model(x).detach().square().mean()) < float(x.square().mean())


def test_a_side_below_21_is_refused() -> None:
    assert REDCNN()(torch.zeros(1, 1, 21, 21)).shape == (1, 1, 21, 21)
    with pytest.raises(UserError, match=r"sides \(21, 20\) are too short for RED-CNN: each must be 21 or more"):
        REDCNN()(torch.zeros(1, 1, 21, 20))


def cell(model: str = "redcnn", dims: int = 2, **training: Any) -> CellSettings:
    return CellSettings.model_validate({
        "id": "x", "model": model, "dims": dims, "ranks": 1, "slices": 1 if dims == 2 else 16, "sampling": "window",
        "validated": 16, "validated_sampling": "window", "transfer": "none", "training": training,
    })  # fmt: skip


@pytest.mark.parametrize(("model", "dims", "kind"), [("ddnet", 2, DDnet), ("ddnet", 3, DDnet), ("redcnn", 2, REDCNN)])
@pytest.mark.parametrize("residual", [False, True])
def test_the_registry_builds_what_a_cell_names(model: str, dims: int, kind: type[nn.Module], residual: bool) -> None:
    network = build_network(cell(model, dims, residual=residual))
    assert isinstance(network, kind)
    assert network.residual == residual
    assert getattr(network, "dims", 2) == dims


@pytest.mark.slow
def test_it_learns_in_the_trainer_and_is_judged_like_any_other(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    intervals = {"train": (0, 24), "validation": (24, 40), "test": (40, 42)}
    split = Split("slabs", {part: [Segment("toy", "a", *interval)] for part, interval in intervals.items()})  # type: ignore[misc]
    settings = cell(crop=32, epochs=2, samples=10, batch=2, validation_samples=2, learning_rate=1e-3)
    data = make_pair(side=192)
    result = train(settings, data, split, tmp_path / "cell", World(), None, ignore_progress)
    write_json(tmp_path / "cell" / "result.json", result)
    assert result["parameters"] == 1_848_865
    assert result["validation"]["rmse_hu"] < result["validation"]["low_dose_rmse_hu"]
    rmse, evaluation = {}, EvaluateSettings(device="cpu")
    parts: dict[Part, list[Segment]] = {"test": split.parts["test"]}
    for name, denoiser in (
        ("redcnn", load_denoiser(settings, tmp_path / "cell", evaluation)),
        ("low-dose", identity(evaluation)),
    ):
        evaluate(denoiser, data, parts, evaluation, tmp_path / name, ignore_progress)
        rows = json.loads((tmp_path / f"{name}.json").read_text())
        rmse[name] = sum(row["rmse_hu"] for row in rows) / len(rows)
    assert rmse["redcnn"] < rmse["low-dose"]
