"""Early stop on a plateau, how often a training validates, and which checkpoint is kept as its outcome."""

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.stages.export import describe_weights
from pipeline.training.checkpoints import Checkpoints, load_trained
from pipeline.training.errors import CheckpointError
from pipeline.training.metrics_file import read_metrics
from pipeline.training.record import TrainingRecord
from tests.pairs import write_toy_pair
from tests.pipeline.cells import cell
from tests.pipeline.trainings import Halted, Trained, assert_same_losses, run, train_ranks

PLATEAU: dict[str, Any] = {"learning_rate": 1e-30, "epochs": 9, "patience": 2}
"""Weights that a step of this size does not change have the same error for ever."""
RISING: dict[str, Any] = {"learning_rate": 3e-2, "epochs": 6, "keep": "best", "checkpoints_kept": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_pair(tmp_path_factory.mktemp("pair"))


def validations(folder: Path) -> dict[int, float]:
    return {line["step"]: line["rmse_hu"] for line in read_metrics(folder) if line["kind"] == "validation"}


def test_a_record_counts_the_validations_since_the_best() -> None:
    """That before the first step is no candidate."""
    record, counted = TrainingRecord(), []
    for step, rmse in enumerate([20.0, 40.0, 30.0, 31.0, 30.0, 29.0, 29.0]):
        record.add_validation(step, {"rmse_hu": rmse, "low_dose_rmse_hu": 40.0})
        counted.append(record.stale)
    assert counted == [0, 0, 0, 1, 2, 0, 1]
    assert record.best == {"step": 5, "rmse_hu": 29.0, "low_dose_rmse_hu": 40.0}


@pytest.mark.slow
def test_a_plateau_stops_the_training_after_so_many_validations(data: Path, tmp_path: Path) -> None:
    result = run(cell(2, **PLATEAU), data, tmp_path / "cell")
    assert list(validations(tmp_path / "cell")) == [0, 4, 8, 12]  # the first is the best, and two are no better
    assert (result["steps"], result["samples"], result["stopped_early"]) == (12, 12, True)
    full_length = run(cell(2, **{**PLATEAU, "epochs": 3}), data, tmp_path / "whole")
    assert (full_length["steps"], full_length["stopped_early"]) == (12, False)
    rerun = run(cell(2, **PLATEAU), data, tmp_path / "cell")
    assert (rerun["steps"], rerun["validation"]) == (12, result["validation"])


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [3, 6, 9, 12])
def test_a_stopped_training_stops_at_the_same_step(data: Path, trained: Trained, tmp_path: Path, stop_at: int) -> None:
    settings = cell(2, checkpoint_minutes=1e-9, flips=True, average=0.2, **PLATEAU)
    with pytest.raises(Halted):
        run(settings, data, tmp_path, stop_at)
    assert run(settings, data, tmp_path)["steps"] == 12
    assert_same_losses(tmp_path, trained(settings)[0])


@pytest.mark.slow
@pytest.mark.ranks
def test_all_ranks_stop_at_the_plateau(data: Path, tmp_path: Path) -> None:
    results = train_ranks(cell(2, ranks=2, **PLATEAU), data, tmp_path)
    assert [(result["steps"], result["samples"]) for result in results] == [(6, 12)] * 2


@pytest.mark.slow
def test_validations_come_every_so_many_epochs_and_after_the_last_step(data: Path, tmp_path: Path) -> None:
    settings = cell(2, epochs=5, validation_epochs=2, checkpoints_kept=9)
    result = run(settings, data, tmp_path)
    assert list(validations(tmp_path)) == [0, 8, 16, 20]
    assert result["validation"]["rmse_hu"] == validations(tmp_path)[20]
    assert len([*(tmp_path / "checkpoints").iterdir()]) == 5  # after each epoch


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_judged(data: Path, tmp_path: Path) -> None:
    result = run(cell(2, **RISING), data, tmp_path / "cell")
    errors = validations(tmp_path / "cell")
    best = min((step for step in errors if step), key=errors.__getitem__)
    assert 4 < best < 24 == result["steps"]
    assert (result["checkpoint_step"], result["validation"]["rmse_hu"]) == (best, errors[best])
    weights = load_trained(cell(2), tmp_path / "cell").state_dict()
    state = Checkpoints(tmp_path / "cell" / "checkpoints").load(best)["model"]
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert run(cell(2, **{**RISING, "keep": "last"}), data, tmp_path / "last")["checkpoint_step"] == 24


def test_the_card_says_which_weights_they_are() -> None:
    assert describe_weights(cell().training, 12) == "after step 12, the last"
    averaged = "averaged over the steps before with a mean age of 0.1 of them"
    described = describe_weights(cell(keep="best", average=0.1).training, 8)
    assert described == f"after step 8, the best validation, {averaged}"


@pytest.mark.slow
def test_where_the_best_checkpoint_is_lost_the_training_goes_on_from_one_that_has_its_best(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = cell(2, **{**RISING, "checkpoints_kept": 9})
    result = run(settings, data, tmp_path)
    before, checkpoints = validations(tmp_path), Checkpoints(tmp_path / "checkpoints")
    checkpoints.path(result["checkpoint_step"]).unlink()
    with pytest.raises(CheckpointError, match="is missing: the next run trains on from the last that is whole"):
        load_trained(settings, tmp_path)
    resumed = run(settings, data, tmp_path)
    assert "passed over: " in capsys.readouterr().out
    assert (resumed["checkpoint_step"], validations(tmp_path)) == (result["checkpoint_step"], before)
    load_trained(settings, tmp_path)
