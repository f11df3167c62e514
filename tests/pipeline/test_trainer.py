"""A training from its first step to its last: what it learns, measures and refuses."""

import getpass
import itertools
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.cache import cache_folder
from data_prep.errors import MachineError
from data_prep.split import Segment, Split
from pipeline.dataset import PairSamples
from pipeline.losses import CompositeLoss
from pipeline.models import DDnet, build_network
from pipeline.settings.cells import CellSettings
from pipeline.training import train as training
from pipeline.training.checkpoints import Checkpoints, load_trained
from pipeline.training.compiled import compile_network
from pipeline.training.distributed import joined
from pipeline.training.divergence import check_steps
from pipeline.training.errors import CheckpointError, TrainingError
from pipeline.training.metrics_file import PARTS, read_metrics
from pipeline.training.ranks import Ranks
from pipeline.training.step import TrainingStep
from pipeline.training.validators import CropValidator
from pipeline.training.world import World
from tests.pipeline.cells import cell
from tests.pipeline.trainings import CPU, SPLIT, Halted, assert_killed_ends_alike, losses, run, train_ranks
from tests.ranks import run_ranks, start_ranks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "training"),
    [
        (2, {"crop": 32, "epochs": 3, "samples": 16, "batch": 2, "norm": "batch", "learning_rate": 3e-3}),
        (3, {"crop": 32, "epochs": 2, "samples": 6, "batch": 1, "norm": "frozen", "learning_rate": 1e-3}),
    ],
)
def test_training_gets_better_and_says_what_it_did(
    make_pair: Callable[..., Path], tmp_path: Path, dims: int, training: dict[str, Any]
) -> None:
    result = run(cell(dims, validation_samples=4, **training), make_pair(), tmp_path / "cell")
    samples = training["epochs"] * training["samples"]
    assert result["samples"] == samples
    assert result["steps"] == len(losses(tmp_path / "cell")) == samples // training["batch"]
    validated = losses(tmp_path / "cell", "validation")
    assert len(validated) == training["epochs"] + 1  # and one before the first step
    assert validated[-1] < validated[0]
    validation = result["validation"]
    assert validation["rmse_hu"] < validation["low_dose_rmse_hu"]
    assert 25 < validation["low_dose_rmse_hu"] < 45  # 40 HU were added, part of it below -1024
    assert result["seconds"]["training"] > 0
    assert list((tmp_path / "cell" / "tensorboard").iterdir())
    assert not load_trained(cell(dims), tmp_path / "cell").training


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_to_the_bit(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(cell(2, seed=seed), data, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.ranks
def test_an_effective_batch_is_the_same_training_however_it_is_made_up(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    """Of ranks, of batches, of accumulation: with frozen statistics only the mean of the gradients joins samples."""
    data, start = make_pair(), tmp_path / "start.pt"
    torch.manual_seed(5)
    torch.save(DDnet(2, residual=True).state_dict(), start)
    common: dict[str, Any] = {"ms_ssim_weight": 0.0, "learning_rate": 1e-4, "validation_samples": 3, "samples": 4}
    reference = run(cell(2, batch=4, **common), data, tmp_path / "one", start=start)
    steps = run(cell(2, batch=2, accumulation=2, **common), data, tmp_path / "steps", start=start)
    ranks = train_ranks(cell(2, accumulation=2, ranks=2, **common), data, tmp_path / "ranks", start)
    for name, result in (("steps", steps), ("ranks", ranks[0])):
        assert result["effective_batch"] == 4
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        for key, value in reference["validation"].items():
            assert result["validation"][key] == pytest.approx(value, rel=1e-4)
    assert ranks[0]["validation"] == ranks[1]["validation"]


@pytest.mark.slow
@pytest.mark.ranks
def test_gradients_can_travel_as_bfloat16(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, training = make_pair(), dict[str, Any](learning_rate=1e-4, ms_ssim_weight=0.0)
    for name in ("full", "bfloat16"):
        train_ranks(cell(2, ranks=2, gradients=name, **training), data, tmp_path / name)
    full, short = losses(tmp_path / "full"), losses(tmp_path / "bfloat16")
    assert short != full
    assert short == pytest.approx(full, rel=0.01)


@pytest.mark.slow
@pytest.mark.ranks
def test_weak_scaling_gives_each_rank_as_much(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    result = train_ranks(cell(2, ranks=2, work="weak", samples=3, epochs=1), make_pair(), tmp_path / "cell")[0]
    assert (result["steps"], result["samples"]) == (3, 6)


def test_a_start_is_used_and_must_fit(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    model = build_network(cell(2))
    torch.save(model.state_dict(), start)
    run(cell(2, learning_rate=1e-12, norm="frozen"), make_pair(), tmp_path / "cell", start=start)
    weights = load_trained(cell(2), tmp_path / "cell").state_dict()
    torch.testing.assert_close(weights["stem.weight"], model.state_dict()["stem.weight"], atol=1e-9, rtol=0)
    start.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"start\.pt is no readable checkpoint"):
        run(cell(2), tmp_path / "data", tmp_path / "other", start=start)


@pytest.mark.ranks
def test_the_parts_of_a_step_are_the_whole_of_it(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    result = train_ranks(cell(2, ranks=2, epochs=1, samples=8, log_steps=2), make_pair(), tmp_path / "cell")[0]
    for line in [*(x for x in read_metrics(tmp_path / "cell") if x["kind"] == "train")]:
        parts = [line[f"{part}_seconds"] for part in PARTS]
        assert all(part > 0 for part in parts)
        assert sum(parts) == pytest.approx(line["seconds_a_step"], rel=0.05)
        assert line["exchange_whole_seconds"] > 0
    steps = result["step_seconds"]
    assert sum(steps[part] for part in PARTS) == pytest.approx(steps["whole"], rel=0.05)
    assert 0 < result["cpu_seconds"] < 100


@pytest.mark.slow
def test_cpu_seconds_are_those_of_the_whole_training_also_of_one_that_was_resumed(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still but at a start (10 s), a step (1 s), a validation (100 s), a checkpoint (1000 s)."""
    seconds = 0.0

    def slow(owner: object, name: str, cost: float) -> None:
        call = getattr(owner, name)

        def work(*args: Any, **kwargs: Any) -> Any:
            nonlocal seconds
            seconds += cost
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, work)

    for owner, name, cost in ((training, "_build_step", 10), (TrainingStep, "take", 1), (CropValidator, "judge", 100),
                              (Checkpoints, "save", 1000)):  # fmt: skip
        slow(owner, name, cost)
    monkeypatch.setattr(time, "process_time", lambda: seconds)
    data, settings = make_pair(), cell(2, loader_workers=0)
    assert run(settings, data, tmp_path / "uncut")["cpu_seconds"] == 10 + 8 * 1 + 3 * 100 + 2 * 1000
    with pytest.raises(Halted):
        run(settings, data, tmp_path / "halted", stop_at=5)
    first_epoch = 10 + 4 * 1 + 2 * 100
    assert run(settings, data, tmp_path / "halted")["cpu_seconds"] == first_epoch + 10 + 4 * 1 + 100 + 1000


@pytest.mark.slow
def test_each_part_of_a_step_has_its_own_time(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed = {"forward": 0.02, "backward": 0.04, "optimiser": 0.06}
    forward, step = DDnet.forward, torch.optim.Adam.step

    def slow_forward(self: DDnet, images: torch.Tensor) -> torch.Tensor:
        time.sleep(slowed["forward"])
        output = forward(self, images)
        if output.requires_grad:
            output.register_hook(lambda _: time.sleep(slowed["backward"]))
        return output

    def slow_step(self: torch.optim.Adam, closure: None = None) -> None:
        time.sleep(slowed["optimiser"])
        step(self, closure)

    monkeypatch.setattr(DDnet, "forward", slow_forward)
    monkeypatch.setattr(torch.optim.Adam, "step", slow_step)
    steps = run(cell(2, epochs=1, samples=4), make_pair(), tmp_path / "cell")["step_seconds"]
    assert all(steps[part] >= seconds for part, seconds in slowed.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [cell(2, checkpoint_steps=1), cell(2, checkpoint_minutes=1e-9)], ids=["steps", "minutes"]
)
def test_the_pause_of_a_checkpoint_is_part_of_no_step(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: CellSettings
) -> None:
    pause, save = 0.3, Checkpoints.save

    def slow_save(*arguments: Any, **options: Any) -> None:
        time.sleep(pause)
        save(*arguments, **options)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    result = run(settings, make_pair(), tmp_path / "cell")
    assert result["seconds"]["checkpoint"] >= 8 * pause
    assert result["step_seconds"]["exchange"] < pause / 10


@pytest.mark.slow
@pytest.mark.ranks
def test_each_step_s_time_is_written_and_the_first_ten_are_cold(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    train_ranks(cell(2, ranks=2, epochs=1, samples=24, log_steps=5), make_pair(), tmp_path / "cell")
    lines = [line for line in read_metrics(tmp_path / "cell") if line["kind"] == "train"]
    assert [len(line["step_seconds"]) for line in lines] == [5, 5, 2]
    assert [warm for line in lines for warm in line["warm"]] == [False] * 10 + [True] * 2
    for line in lines:
        assert sum(line["step_seconds"]) / len(line["warm"]) == pytest.approx(line["seconds_a_step"], rel=0.05)
        for step, local, slowest in zip(
            line["step_seconds"], line["own_seconds"], line["slowest_seconds"], strict=True
        ):
            assert 0 < local <= min(step, slowest)


@pytest.mark.slow
@pytest.mark.ranks
def test_ranks_that_do_not_exchange_go_their_own_ways(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, full = make_pair(), cell(2, ranks=2, samples=8, epochs=1)
    for arm in ("full", "silent"):
        train_ranks(full.model_copy(update={"arm": arm}), data, tmp_path / arm)
    exchanging, silent = losses(tmp_path / "full"), losses(tmp_path / "silent")
    assert silent[0] == exchanging[0]  # from the same weights
    assert silent[1:] != exchanging[1:]
    exchanged = [
        line["exchange_whole_seconds"] for line in read_metrics(tmp_path / "silent") if line["kind"] == "train"
    ]
    assert exchanged == [0.0] * 4


@pytest.mark.slow
def test_made_up_data_are_the_first_batch_again_and_again(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, still = make_pair(), cell(2, samples=4, epochs=1, learning_rate=1e-12)
    for arm in ("full", "synthetic"):
        run(still.model_copy(update={"arm": arm}), data, tmp_path / arm)
    full, synthetic = losses(tmp_path / "full"), losses(tmp_path / "synthetic")
    assert synthetic == pytest.approx([full[0]] * 4, rel=1e-6)
    assert full[1:] != pytest.approx([full[0]] * 3, rel=1e-3)


@pytest.mark.slow
def test_made_up_data_stay_the_same_batch_where_the_training_was_killed(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    settings = cell(2, samples=4, epochs=1, checkpoint_steps=1).model_copy(update={"arm": "synthetic"})
    assert_killed_ends_alike(settings, make_pair(), tmp_path)


def test_made_up_data_that_are_no_numbers_are_named_by_their_scan(tmp_path: Path) -> None:
    """Which is that of the first batch in each step."""
    settings = cell(2, samples=8, batch=2, accumulation=2)
    samples = PairSamples(tmp_path, [Segment("toy", str(number), 0, 24) for number in range(8)], settings, 0, 8)
    seen = [samples.segment(index).scan for index in range(8)]
    steps, ranks = torch.tensor([[1.0, 1.0], [math.nan, 1.0]]), Ranks(World(), CPU)
    for arm, scans in (("full", seen[4:]), ("synthetic", seen[:2])):
        said = f"not finite at step 2, where rank 0 saw {', '.join(f'toy/{scan}' for scan in sorted(scans))}; "
        with pytest.raises(TrainingError, match=said):
            check_steps(steps, 2, samples, settings.model_copy(update={"arm": arm}), ranks)


def test_a_loss_that_is_no_number_stops_the_training(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    said = r"loss or gradient of cell cell is not finite at step [2-9], where rank 0 saw toy/a; .*learning_rate may"
    with pytest.raises(TrainingError, match=said):
        run(cell(2, learning_rate=1e30, epochs=4), make_pair(), tmp_path / "cell")
    assert all(math.isfinite(loss) for kind in ("train", "validation") for loss in losses(tmp_path / "cell", kind))


def _poisoned_rank(rank: int, data: Path, folder: Path) -> None:
    """The loss of rank 1 is no number in its second step, and so is each rank's gradient."""
    torch.set_num_threads(1)
    forward, calls = CompositeLoss.forward, itertools.count()

    def poisoned(self: CompositeLoss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = forward(self, output, target)
        return loss * math.nan if output.requires_grad and next(calls) == 1 and rank == 1 else loss

    CompositeLoss.forward = poisoned  # type: ignore[method-assign]
    world = World(rank, 2, rank, f"file://{folder}.meet")
    train_part = [Segment("toy", name, 0, 24) for name in ("a", "b")]
    split = Split("patients", {**SPLIT.parts, "train": train_part})
    settings = cell(2, ranks=2, samples=8, log_steps=4)
    scan = PairSamples(data, train_part, settings, settings.training.seed, 8).segment(2 + rank).scan
    with joined(world, CPU), pytest.raises(TrainingError) as raised:
        training.train(settings, data, split, folder, world, None, lambda count, total, note: None)
    (folder / f"said{rank}").write_text(f"{scan}: {raised.value}")


@pytest.mark.ranks
def test_a_loss_that_is_no_number_names_the_rank_that_saw_it(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    make_pair("b", seed=1)
    run_ranks(_poisoned_rank, (data, tmp_path), 2)
    scan = (tmp_path / "said1").read_text().partition(":")[0]
    for rank in (0, 1):
        message = rf"is not finite at step 2, where rank 1 saw toy/{scan}; earlier checkpoints are kept"
        assert re.search(message, (tmp_path / f"said{rank}").read_text())


def _diverging_rank(_rank: int, data: Path, folder: Path) -> None:
    run(cell(2, learning_rate=1e30, epochs=4, loader_workers=1), data, folder)


@pytest.mark.ranks
def test_a_process_whose_training_fails_ends_although_its_readers_ignore_sigterm(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    arguments = (make_pair(), tmp_path / "cell")
    (process,) = start_ranks(_diverging_rank, arguments, 1).processes
    process.join(60)
    process.kill()
    assert process.exitcode == 1


def test_weights_that_the_last_step_broke_are_not_kept(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """The loss of a step is that of the weights before it."""
    with pytest.raises(TrainingError, match=r"(validation loss|sum of weights) of cell cell is"):
        run(cell(2, learning_rate=3e37, epochs=1, samples=1), make_pair(), tmp_path / "cell")
    assert Checkpoints(tmp_path / "cell" / "checkpoints").newest() is None


def test_a_world_that_is_not_whole_fails(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)rank"), joined(World(3, 2, 0, f"file://{tmp_path}/meet"), CPU):
        pass


@pytest.mark.parametrize("is_safe", [True, False])
def test_compiled_programs_lie_where_nobody_else_can_write(
    is_safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o1777 if is_safe else 0o777)
    compile_network(torch.nn.Linear(1, 1))
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    ours = tmp_path / f"quarterdose-compiled-{os.geteuid()}"
    assert folder.parent == (ours if is_safe else cache_folder() / "compiled")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_torch_chose_at_its_import_is_no_choice_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process of a training imports torch's compiler before, or is forked from one that did."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chosen = tmp_path / f"torchinductor_{getpass.getuser()}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(chosen))
    compile_network(torch.nn.Linear(1, 1))
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) != chosen
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    compile_network(torch.nn.Linear(1, 1))
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / "mine"


def _compile(_rank: int, path: Path) -> None:
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    compile_network(torch.nn.Linear(1, 1))
    path.write_text(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_dir()


@pytest.mark.slow
def test_what_a_process_compiled_goes_with_it(tmp_path: Path) -> None:
    """torch takes half a program for a whole one, so what a killed process left would keep all others from training."""
    folders = set[str]()
    for _ in range(2):
        run_ranks(_compile, (tmp_path / "folder",), 1)
        folders.add((tmp_path / "folder").read_text())
    assert len(folders) == 2
    assert not any(Path(folder).exists() for folder in folders)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_named(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config  # seconds, spared all other tests

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what others compiled needs none
    words = (
        r"network of cell cell cannot be compiled on this machine \(No working C\+\+ compiler .*training.compile to f"
    )
    with config.patch({"cpp.cxx": ("absent",)}), pytest.raises(MachineError, match=words):
        run(cell(2, compile=True), make_pair(), tmp_path / "cell")


@pytest.mark.compiler
def test_a_compiled_network_trains_to_the_same_losses(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    for name, compiled in (("plain", False), ("compiled", True)):
        run(cell(2, compile=compiled, samples=2, epochs=1, validation_samples=1, learning_rate=1e-4), data,
            tmp_path / name)  # fmt: skip
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    model = load_trained(cell(2), tmp_path / "compiled")
    assert torch.isfinite(model(torch.zeros(1, 1, 16, 16))).all()
