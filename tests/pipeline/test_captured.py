"""Trainings whose passes are CUDA graphs: emulated on CPUs, where they are the same trainings to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.progress import ignore_progress
from pipeline.settings.cells import CellSettings
from pipeline.training.captured import capture
from pipeline.training.checkpoints import load_trained
from pipeline.training.distributed import joined
from pipeline.training.train import train
from pipeline.training.world import World
from tests.pairs import write_toy_pair
from tests.pipeline.cells import cell
from tests.pipeline.emulated_graphs import EmulatedGraph, emulate_cuda_graphs
from tests.pipeline.trainings import CPU, SPLIT, assert_killed_ends_alike, assert_same_losses, run, train_ranks
from tests.ranks import run_ranks

RUNNING: dict[str, Any] = {"norm": "batch", "crop": 32, "batch": 2, "average": 0.2, "cuda_graphs": True}
"""With running statistics, and averaged weights."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[EmulatedGraph]:
    """The graphs, in the order in which they run."""
    ran, replay = list[EmulatedGraph](), EmulatedGraph.replay
    emulate_cuda_graphs(monkeypatch)

    def note(graph: EmulatedGraph) -> None:
        ran.append(graph)
        replay(graph)

    monkeypatch.setattr(EmulatedGraph, "replay", note)
    return ran


def unet(dims: int, **training: Any) -> CellSettings:
    settings = cell(dims, epochs=1, **training)
    return settings.model_copy(update={"model": "unet", "options": {"width": 16, "levels": 1}})


def launched(settings: CellSettings) -> CellSettings:
    """Return the same training without graphs."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"cuda_graphs": False})})


def assert_same_weights(settings: CellSettings, ours: Path, theirs: Path) -> None:
    weights, expected = (load_trained(settings, path).state_dict() for path in (ours, theirs))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        unet(2, **RUNNING),
        unet(3, precision="bfloat16", cuda_graphs=True),
        cell(3, epochs=1, samples=2, norm="group", activation_checkpointing=True, cuda_graphs=True),
    ],
    ids=["running statistics", "bfloat16", "checkpointed"],
)
def test_a_captured_training_is_the_same_to_the_bit(
    settings: CellSettings, data: Path, replays: list[EmulatedGraph], tmp_path: Path
) -> None:
    expected = run(launched(settings), data, tmp_path / "launched")
    assert not replays
    result = run(settings, data, tmp_path / "captured")
    assert result["validation"] == expected["validation"]
    assert_same_losses(tmp_path / "captured", tmp_path / "launched")
    assert_same_weights(settings, tmp_path / "captured", tmp_path / "launched")
    forward, backward = replays[:2]
    assert replays == [forward, backward] * result["steps"]


@pytest.mark.slow
def test_a_captured_training_that_was_killed_ends_with_the_same_bits(
    data: Path, replays: list[EmulatedGraph], tmp_path: Path
) -> None:
    assert_killed_ends_alike(unet(2, checkpoint_steps=1, **RUNNING), data, tmp_path)
    assert len(set(replays)) == 2 * 3


def _train_captured(rank: int, settings: CellSettings, data: Path, folder: Path) -> None:
    world = World(rank, 2, rank, f"file://{folder}.meet")
    with pytest.MonkeyPatch.context() as monkeypatch, joined(world, CPU):
        emulate_cuda_graphs(monkeypatch)
        train(settings, data, SPLIT, folder, world, None, ignore_progress)


@pytest.mark.slow
@pytest.mark.ranks
def test_captured_ranks_exchange_the_same_gradients(data: Path, tmp_path: Path) -> None:
    settings = unet(2, samples=8, **RUNNING).model_copy(update={"ranks": 2})
    train_ranks(launched(settings), data, tmp_path / "launched")
    run_ranks(_train_captured, (settings, data, tmp_path / "captured"), 2)
    assert_same_losses(tmp_path / "captured", tmp_path / "launched")


class Asking(nn.Conv2d):
    """A network whose host waits for a number of the GPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        y = super().forward(input)
        return y / y.max().item()


@pytest.mark.usefixtures("replays")
def test_what_cannot_be_captured_is_named() -> None:
    with pytest.raises(UserError) as caught:
        capture(Asking(1, 1, 1), torch.ones(1, 1, 4, 4), low_precision=False)
    assert str(caught.value) == (
        "torch cannot capture this network in CUDA graphs (CUDA error: operation not permitted when stream is "
        "capturing): set training.cuda_graphs to false"
    )


def test_on_a_cpu_it_says_that_it_does_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(unet(2, samples=1, cuda_graphs=True), data, tmp_path)
    assert "cell cell: training.cuda_graphs does nothing on a CPU" in capsys.readouterr().out
