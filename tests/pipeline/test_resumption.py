"""A training that is stopped, killed or damaged goes on from its checkpoints to the same losses."""

import itertools
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.errors import MachineError, UserError
from pipeline.settings.cells import CellSettings
from pipeline.training.checkpoints import Checkpoints, load_state, load_trained
from pipeline.training.distributed import joined
from pipeline.training.errors import CheckpointError
from pipeline.training.metrics_file import MetricsFile, read_metrics
from pipeline.training.stopping import Stopped
from pipeline.training.train import train
from pipeline.training.validation import judge
from pipeline.training.world import World
from tests.full_disk import small_files
from tests.pairs import write_toy_pair
from tests.pipeline.cells import cell
from tests.pipeline.trainings import CPU, SPLIT, Halted, Trained, assert_same_losses, losses, run, train_ranks
from tests.ranks import run_ranks

COMPLETE: dict[str, Any] = {
    "flips": True, "average": 0.2, "patience": 9, "keep": "best", "norm": "batch", "crop": 32,
}  # fmt: skip
"""With running statistics too."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "stop_at", "training"),
    [(2, 1, {}), (2, 3, {}), (3, 4, {}), (2, 5, {}), (2, 7, {}), (2, 3, COMPLETE), (2, 6, COMPLETE), (3, 5, COMPLETE)],
)
def test_a_stopped_training_goes_on_to_the_same_losses(
    data: Path, trained: Trained, tmp_path: Path, dims: int, stop_at: int, training: dict[str, Any]
) -> None:
    settings = cell(dims, checkpoint_minutes=1e-9, **training)
    folder, uninterrupted = trained(settings)
    with pytest.raises(Halted):
        run(settings, data, tmp_path / "parts", stop_at)
    resumed = run(settings, data, tmp_path / "parts")
    assert_same_losses(tmp_path / "parts", folder)
    assert resumed["validation"] == uninterrupted["validation"]
    first, second = (load_trained(settings, path).state_dict() for path in (folder, tmp_path / "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run(settings, data, tmp_path / "parts")["validation"] == uninterrupted["validation"]  # nothing left to do


@pytest.mark.slow
def test_a_training_that_goes_on_in_another_precision_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one with precision and device auto, on a machine without the GPU on which it began."""
    with pytest.raises(Halted):
        run(cell(2, checkpoint_minutes=1e-9, precision="bfloat16"), data, tmp_path, 3)
    words = "was trained in bfloat16 on a CPU so far, and goes on in float32 on a CPU: its losses are not those of a"
    assert run(cell(2), data, tmp_path)["precision"] == "float32"
    assert words in capsys.readouterr().out
    run(cell(2), data, tmp_path)
    assert words not in capsys.readouterr().out


@pytest.mark.slow
def test_only_the_checkpoint_with_which_the_training_ended_is_judged(trained: Trained, tmp_path: Path) -> None:
    """The one before is there too, and whole."""
    settings = cell(2, checkpoint_minutes=1e-9)
    folder = tmp_path / "cell"
    shutil.copytree(trained(settings)[0], folder)
    last = sorted((folder / "checkpoints").iterdir())[-1]
    content = last.read_bytes()
    shutil.copy(sorted((folder / "checkpoints").iterdir())[-2], last)
    with pytest.raises(
        CheckpointError, match=rf"{last.name} is not the file with which the training ended: delete it, "
    ):
        load_trained(settings, folder)
    last.unlink()
    with pytest.raises(CheckpointError, match=r"is missing: the next run trains on from the last that is whole$"):
        load_trained(settings, folder)
    last.write_bytes(content)
    load_trained(settings, folder)


@pytest.mark.slow
@pytest.mark.ranks
def test_ranks_resume_together(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, short, long = make_pair(), cell(2, ranks=2, epochs=2), cell(2, ranks=2, epochs=2)
    train_ranks(long, data, tmp_path / "whole")
    train_ranks(short, data, tmp_path / "parts")
    newest = Checkpoints(tmp_path / "parts" / "checkpoints").newest()
    (tmp_path / "parts" / "checkpoints" / f"step-{newest:08d}.pt").unlink()
    train_ranks(long, data, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "stop_at"), [(signal.SIGUSR2, 3), (signal.SIGTERM, 2)])
def test_a_signal_stops_at_the_next_step_and_the_losses_stay_the_same(
    data: Path, trained: Trained, tmp_path: Path, number: signal.Signals, stop_at: int
) -> None:
    settings = cell(2, log_steps=2)

    def ask(count: int, total: int, note: str) -> None:
        if count == stop_at:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"saved itself after step {stop_at + 1}"):
        train(settings, data, SPLIT, tmp_path / "parts", World(), None, ask)
    assert signal.getsignal(number) == before
    assert Checkpoints(tmp_path / "parts" / "checkpoints").newest() == stop_at + 1
    run(settings, data, tmp_path / "parts")
    assert_same_losses(tmp_path / "parts", trained(settings)[0])


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_signal_in_a_validation_stops_too_and_it_is_made_again(
    data: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before the first step there is nothing to save but the start; afterwards the trained step is safe."""
    (uninterrupted, _), settings, calls = trained(cell(2)), cell(2), 0

    def asked(*values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(*values)

    monkeypatch.setattr("pipeline.training.step.judge", asked)
    with pytest.raises(Stopped):
        run(settings, data, tmp_path / "parts")
    assert calls == at + 1
    run(settings, data, tmp_path / "parts")
    assert_same_losses(tmp_path / "parts", uninterrupted)


def _killed_training(settings: CellSettings, data: Path, folder: Path) -> None:
    def kill(count: int, total: int, note: str) -> None:
        if count == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    train(settings, data, SPLIT, folder, World(), None, kill)


@pytest.mark.slow
def test_a_killed_training_with_all_that_good_ones_have_goes_on_to_the_same_bits(
    data: Path, trained: Trained, tmp_path: Path
) -> None:
    """From the last checkpoint, in the middle of an epoch."""
    settings = cell(2, checkpoint_steps=3, **COMPLETE)
    victim = multiprocessing.get_context("fork").Process(target=_killed_training, args=(settings, data, tmp_path))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert Checkpoints(tmp_path / "checkpoints").newest() == 6
    run(settings, data, tmp_path)
    folder, _ = trained(settings)
    assert_same_losses(tmp_path, folder)
    first, second = (load_trained(settings, path).state_dict() for path in (folder, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _asked_rank(rank: int, settings: CellSettings, data: Path, folder: Path) -> None:
    """Only rank 1 gets the signal."""
    torch.set_num_threads(1)

    def ask(count: int, total: int, note: str) -> None:
        if rank == 1 and count == 1:
            os.kill(os.getpid(), signal.SIGUSR2)

    with joined(World(rank, 2, rank, f"file://{folder}.meet"), CPU), pytest.raises(Stopped, match="after step 2"):
        train(settings, data, SPLIT, folder, World(rank, 2, rank, "file://"), None, ask)


@pytest.mark.slow
@pytest.mark.ranks
def test_all_ranks_stop_when_one_is_asked_to(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """In the middle of a line of metrics, to which every rank has something to add."""
    data, settings = make_pair(), cell(2, ranks=2, samples=8, log_steps=4)
    train_ranks(settings, data, tmp_path / "whole")
    run_ranks(_asked_rank, (settings, data, tmp_path / "parts"), 2)
    train_ranks(settings, data, tmp_path / "parts")
    assert_same_losses(tmp_path / "parts", tmp_path / "whole")


def test_checkpoints_come_every_so_many_steps(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    settings = cell(2, samples=6, epochs=1, checkpoint_steps=2, checkpoints_kept=9, log_steps=5)
    run(settings, make_pair(), tmp_path / "cell")
    assert _saved_steps(tmp_path / "cell") == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_checkpoints_come_after_a_time_however_long_the_lines_of_metrics(
    make_pair: Callable[..., Path], tmp_path: Path, ranks: int
) -> None:
    settings = cell(2, ranks, samples=3 * ranks, epochs=1, checkpoint_minutes=1e-9, checkpoints_kept=9, log_steps=9)
    train_ranks(settings, make_pair(), tmp_path / "cell")
    assert _saved_steps(tmp_path / "cell") == [1, 2, 3]


def _saved_steps(folder: Path) -> list[int]:
    return [int(path.stem[5:]) for path in sorted((folder / "checkpoints").iterdir())]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_broken_checkpoint_is_passed_over(
    data: Path, trained: Trained, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    intact, _ = trained(cell(2))
    shutil.copytree(intact, tmp_path / "parts")
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": bytes(content[:-100]), "flipped": bytes(content), "empty": b""}[damage])
    run(cell(2), data, tmp_path / "parts")
    assert re.search(rf"passed over: .*{newest.name} is no readable checkpoint", capsys.readouterr().out)
    assert_same_losses(tmp_path / "parts", intact)


def test_when_the_disk_is_full_the_old_checkpoint_survives(tmp_path: Path) -> None:
    """Not a byte more than 10 kB can be written to any file."""
    Checkpoints(tmp_path).save(1, {"x": torch.zeros(10)}, keep=1)
    message = r"step 2 cannot be written \(File too large\); that of step 1 is kept"
    with small_files(10_000), pytest.raises(MachineError, match=message):
        Checkpoints(tmp_path).save(2, {"x": torch.zeros(10_000)}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert Checkpoints(tmp_path).newest() == 1


def test_when_the_disk_is_full_its_metrics_are_named(tmp_path: Path) -> None:
    with small_files(10_000), pytest.raises(OSError, match="File too large") as caught:
        _write_metrics(tmp_path)
    assert caught.value.filename == str(tmp_path)


def _write_metrics(folder: Path) -> None:
    with MetricsFile(folder, (), 0) as metrics:
        for step in range(1000):
            metrics.write("step", step, 0, {"loss": 1.0})


def _save_for_ever(folder: Path) -> None:
    for step in itertools.count(1):
        Checkpoints(folder).save(step, {"x": torch.full((100_000,), step)}, keep=2)


@pytest.mark.slow
def test_whenever_saving_is_killed_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    last = 0
    for turn in range(8):
        saver = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path / str(turn),))
        saver.start()
        time.sleep(0.3 + 0.037 * turn)
        saver.kill()
        saver.join()
        newest = Checkpoints(tmp_path / str(turn)).newest()
        last = max(last, newest or 0)
        if newest:
            assert Checkpoints(tmp_path / str(turn)).load(newest)["x"].unique().tolist() == [newest]
    assert last > 1


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        Checkpoints(tmp_path).save(step, {"step": step}, keep=2, also=[1])
    assert [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())] == [1, 3, 10]
    assert Checkpoints(tmp_path).newest() == 10
    assert Checkpoints(tmp_path).load(10) == {"step": 10}
    assert Checkpoints(tmp_path / "absent").newest() is None


def test_a_broken_checkpoint_of_a_later_step_does_not_take_the_place_of_a_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 9):
        checkpoints.save(step, {"step": step}, keep=2)
    checkpoints.path(9).write_bytes(b"cut")
    assert checkpoints.newest() == 1
    assert "passed over: " in capsys.readouterr().out
    checkpoints.save(2, {"step": 2}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.pt"]


def test_a_copy_that_a_user_made_of_a_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "step-00000009-copy.pt").touch()
    Checkpoints(tmp_path).save(1, {"step": 1}, keep=1)
    assert Checkpoints(tmp_path).newest() == 1


def test_metrics_after_the_checkpoint_are_dropped_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, (), 0) as metrics:
        for step in (1, 2, 3):
            metrics.write("train", step, 0, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsFile(tmp_path, metrics.lines[:2], 2):
        pass
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_changed_metrics_are_mended_by_the_checkpoint_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, (), 0) as metrics:
        metrics.write("train", 1, 0, {"loss": 0.25})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with MetricsFile(tmp_path, metrics.lines, 1):
        pass
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1, "epoch": 0, "loss": 0.25}]
    path.write_text(path.read_text().replace(":", ";", 1))
    with pytest.raises(UserError, match=r"metrics\.jsonl was cut or changed: run the training again"):
        read_metrics(tmp_path)
