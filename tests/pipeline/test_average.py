"""Averaged weights: against their closed form, over ranks, in checkpoints and where networks are loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.files import write_json
from pipeline.training.average import newest_share
from pipeline.training.checkpoints import Checkpoints, load_trained
from pipeline.training.errors import CheckpointError
from tests.pairs import write_toy_pair
from tests.pipeline.cells import cell
from tests.pipeline.trainings import Halted, losses, run, train_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("age", [0.5, 0.25, 0.1, 0.02])
def test_the_mean_age_of_the_weights_is_its_share_of_the_steps(age: float) -> None:
    shares = np.array([1.0])
    for steps in range(2, 200):
        newest = newest_share(age, steps)
        shares = np.append((1 - newest) * shares, newest)
        assert shares.sum() == pytest.approx(1)
        assert (shares * np.arange(steps)[::-1]).sum() == pytest.approx(age * (steps - 1))
        assert (np.diff(shares) > -1e-12).all()


@pytest.mark.slow
def test_the_average_is_the_sum_of_all_weights_by_their_shares(data: Path, tmp_path: Path) -> None:
    """With a mean age of a tenth, weights of step s weigh s (s + 1) ... (s + 7)."""
    settings = cell(2, average=0.1, epochs=3, learning_rate=1e-2, checkpoint_steps=1, checkpoints_kept=99)
    run(settings, data, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    states = [checkpoints.load(step)["model"] for step in range(1, 13)]
    weights = np.array([np.prod(np.arange(step, step + 8, dtype=float)) for step in range(1, 13)])
    averaged = load_trained(settings, tmp_path).state_dict()
    for name, tensor in averaged.items():
        expected = sum(
            share * state[name].double() for share, state in zip(weights / weights.sum(), states, strict=True)
        )
        assert isinstance(expected, Tensor)
        assert tensor.dtype == states[0][name].dtype
        torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=1e-6)
    assert not torch.equal(averaged["stem.weight"], states[-1]["stem.weight"])


@pytest.mark.slow
def test_averaging_changes_nothing_of_the_training_but_what_is_validated(data: Path, tmp_path: Path) -> None:
    for name, average in (("plain", None), ("averaged", 0.2)):
        run(cell(2, average=average, learning_rate=1e-2, norm="batch", crop=32), data, tmp_path / name)
    assert losses(tmp_path / "plain") == losses(tmp_path / "averaged")
    plain, averaged = (losses(tmp_path / name, "validation") for name in ("plain", "averaged"))
    assert plain[0] == averaged[0]
    assert all(first != second for first, second in zip(plain[1:], averaged[1:], strict=True))
    states = [Checkpoints(tmp_path / name / "checkpoints").load(8) for name in ("plain", "averaged")]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    for name, buffer in states[1]["model"].items():
        if "running" in name:
            assert torch.equal(states[1]["average"]["weights"][name], buffer)


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_average_as_one_does(data: Path, tmp_path: Path) -> None:
    """Each rank validates its share by its own average."""
    common: dict[str, Any] = {"average": 0.2, "flips": True, "ms_ssim_weight": 0.0, "validation_samples": 4}
    alone = run(cell(2, batch=2, **common), data, tmp_path / "alone")
    shared = train_ranks(cell(2, ranks=2, **common), data, tmp_path / "shared")[0]
    write_json(tmp_path / "shared" / "result.json", shared)
    assert shared["validation"] == pytest.approx(alone["validation"], rel=1e-5)
    first, second = (load_trained(cell(2), tmp_path / name).state_dict() for name in ("alone", "shared"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_without_an_average_is_refused_where_one_is_asked_for(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Halted):
        run(cell(2), data, tmp_path, stop_at=5)
    path = Checkpoints(tmp_path / "checkpoints").path(4)
    state = Checkpoints(tmp_path / "checkpoints").load(4)
    torch.save({name: state[name] for name in state if name != "average"}, path)  # as before there were averages
    sentence = r"newest checkpoint of cell cell has no averaged weights, .* delete the cell's checkpoints, or set"
    with pytest.raises(CheckpointError, match=sentence):
        run(cell(2, average=0.1), data, tmp_path)
    uninterrupted = run(cell(2), data, tmp_path / "whole")
    assert run(cell(2), data, tmp_path)["validation"] == uninterrupted["validation"]
    assert load_trained(cell(2), tmp_path)
