import itertools
import json
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.errors import MachineError
from data_prep.split import Segment, Split
from pipeline.models import DDnet, build_network
from pipeline.settings.cells import CellSettings
from pipeline.training.checkpoints import CheckpointError, Checkpoints, load_state, load_trained
from pipeline.training.clock import PARTS
from pipeline.training.distributed import joined
from pipeline.training.divergence import TrainingError
from pipeline.training.metrics_file import MetricsFile, read_metrics
from pipeline.training.ranks import Ranks
from pipeline.training.stopping import Stopped
from pipeline.training.train import train
from pipeline.training.validation import judge
from pipeline.training.world import World
from tests.pipeline.cells import cell
from tests.ranks import run_ranks, start_ranks

CPU = torch.device("cpu")
SPLIT = Split("slabs", {
    "train": [Segment("toy", "a", 0, 24)],
    "validation": [Segment("toy", "a", 24, 40)],
    "test": [Segment("toy", "a", 40, 48)],
})  # fmt: skip


class Halted(Exception):
    pass


def run(settings: CellSettings, data: Path, folder: Path, stop_at: int | None = None, **options: Any) -> dict[str, Any]:
    def progress(done: int, total: int, note: str) -> None:
        if done == stop_at:
            raise Halted

    return train(settings, data, SPLIT, folder, options.get("world", World()), options.get("start"), progress)


def losses(folder: Path, kind: str = "train") -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if line["kind"] == kind]


@pytest.mark.parametrize(
    ("dims", "how"),
    [
        (2, {"epochs": 10, "samples": 16, "batch": 2, "norm": "batch", "learning_rate": 3e-3}),
        (3, {"epochs": 3, "samples": 6, "batch": 1, "norm": "frozen", "learning_rate": 1e-3}),
    ],
)
def test_training_gets_better_and_says_what_it_did(
    make_pair: Callable[..., Path], tmp_path: Path, dims: int, how: dict[str, Any]
) -> None:
    result = run(cell(dims, crop=32, validation_samples=4, **how), make_pair(), tmp_path / "cell")
    samples = how["epochs"] * how["samples"]
    assert result["samples"] == samples
    assert result["steps"] == len(losses(tmp_path / "cell")) == samples // how["batch"]
    validated = losses(tmp_path / "cell", "validation")
    assert len(validated) == how["epochs"] + 1  # and one before the first step
    assert validated[-1] < validated[0]
    validation = result["validation"]
    assert validation["rmse_hu"] < validation["low_dose_rmse_hu"]
    assert 25 < validation["low_dose_rmse_hu"] < 45  # 40 HU were added, part of it below -1024
    assert result["seconds"]["training"] > 0
    assert list((tmp_path / "cell" / "tensorboard").iterdir())
    assert not load_trained(cell(dims), tmp_path / "cell").training


def test_the_same_seed_gives_the_same_losses_to_the_bit(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(cell(seed=seed), data, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5, 7])
def test_a_stopped_training_goes_on_to_the_same_losses(
    make_pair: Callable[..., Path], tmp_path: Path, stop_at: int
) -> None:
    data, settings = make_pair(), cell(checkpoint_minutes=1e-9)
    whole = run(settings, data, tmp_path / "whole")
    with pytest.raises(Halted):
        run(settings, data, tmp_path / "parts", stop_at)
    resumed = run(settings, data, tmp_path / "parts")
    for kind in ("train", "validation"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)
    assert resumed["validation"] == whole["validation"]
    first, second = (load_trained(settings, tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run(settings, data, tmp_path / "parts")["validation"] == whole["validation"]  # nothing left to do


def _rank(rank: int, settings: CellSettings, data: Path, folder: Path, size: int, start: Path | None) -> None:
    torch.set_num_threads(1)
    world = World(rank, size, rank, f"file://{folder}.meet")
    with joined(world, CPU):
        result = train(settings, data, SPLIT, folder, world, start, lambda done, total, note: None)
        assert Ranks(world, CPU).sum({"a": 1.0, "b": float(rank)}) == {"a": size, "b": size * (size - 1) / 2}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


def train_ranks(settings: CellSettings, data: Path, folder: Path, start: Path | None = None) -> list[dict[str, Any]]:
    run_ranks(_rank, (settings, data, folder, settings.ranks, start), settings.ranks)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(settings.ranks)]


@pytest.mark.ranks
def test_an_effective_batch_is_the_same_training_however_it_is_made_up(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    """Of ranks, of batches, of accumulation: with frozen statistics only the mean of the gradients joins samples."""
    data, start = make_pair(), tmp_path / "start.pt"
    torch.manual_seed(5)
    torch.save(DDnet(3, residual=True).state_dict(), start)
    common: dict[str, Any] = {"ms_ssim_weight": 0.0, "learning_rate": 1e-4, "validation_samples": 3, "samples": 4}
    one = run(cell(batch=4, **common), data, tmp_path / "one", start=start)
    steps = run(cell(batch=2, accumulation=2, **common), data, tmp_path / "steps", start=start)
    ranks = train_ranks(cell(accumulation=2, ranks=2, **common), data, tmp_path / "ranks", start)
    for name, result in (("steps", steps), ("ranks", ranks[0])):
        assert result["effective_batch"] == 4
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        for key, value in one["validation"].items():
            assert result["validation"][key] == pytest.approx(value, rel=1e-4)
    assert ranks[0]["validation"] == ranks[1]["validation"]


@pytest.mark.ranks
def test_gradients_can_travel_as_bfloat16(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, how = make_pair(), dict[str, Any](learning_rate=1e-4, ms_ssim_weight=0.0)
    for name in ("full", "bfloat16"):
        train_ranks(cell(ranks=2, gradients=name, **how), data, tmp_path / name)
    full, short = losses(tmp_path / "full"), losses(tmp_path / "bfloat16")
    assert short != full
    assert short == pytest.approx(full, rel=0.01)


@pytest.mark.ranks
def test_weak_scaling_gives_each_rank_as_much(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    result = train_ranks(cell(ranks=2, work="weak", samples=3, epochs=1), make_pair(), tmp_path / "cell")[0]
    assert (result["steps"], result["samples"]) == (3, 6)


@pytest.mark.ranks
def test_ranks_resume_together(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, short, long = make_pair(), cell(ranks=2, epochs=2), cell(ranks=2, epochs=2)
    train_ranks(long, data, tmp_path / "whole")
    train_ranks(short, data, tmp_path / "parts")
    newest = Checkpoints(tmp_path / "parts" / "checkpoints").newest()
    (tmp_path / "parts" / "checkpoints" / f"step-{newest:08d}.pt").unlink()
    train_ranks(long, data, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_start_is_used_and_must_fit(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    model = build_network(cell())
    torch.save(model.state_dict(), start)
    run(cell(learning_rate=1e-12, norm="frozen"), make_pair(), tmp_path / "cell", start=start)
    found = load_trained(cell(), tmp_path / "cell").state_dict()
    torch.testing.assert_close(found["stem.weight"], model.state_dict()["stem.weight"], atol=1e-9, rtol=0)
    start.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"start\.pt is no readable checkpoint"):
        run(cell(), tmp_path / "data", tmp_path / "other", start=start)


@pytest.mark.ranks
def test_the_parts_of_a_step_are_the_whole_of_it(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    result = train_ranks(cell(ranks=2, epochs=1, samples=8, log_steps=2), make_pair(), tmp_path / "cell")[0]
    for line in [*(x for x in read_metrics(tmp_path / "cell") if x["kind"] == "train")]:
        parts = [line[f"{part}_seconds"] for part in PARTS]
        assert all(part > 0 for part in parts)
        assert sum(parts) == pytest.approx(line["seconds_a_step"], rel=0.05)
        assert line["exchange_whole_seconds"] > 0
    steps = result["step_seconds"]
    assert steps["backward"] > steps["optimiser"]
    assert sum(steps[part] for part in PARTS) == pytest.approx(steps["whole"], rel=0.05)
    assert 0 < result["cpu_seconds"] < 100


@pytest.mark.ranks
def test_each_step_s_time_is_written_and_the_first_ten_are_cold(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    train_ranks(cell(ranks=2, epochs=1, samples=24, log_steps=5), make_pair(), tmp_path / "cell")
    lines = [line for line in read_metrics(tmp_path / "cell") if line["kind"] == "train"]
    assert [len(line["step_seconds"]) for line in lines] == [5, 5, 2]
    assert [warm for line in lines for warm in line["warm"]] == [False] * 10 + [True] * 2
    for line in lines:
        assert sum(line["step_seconds"]) / len(line["warm"]) == pytest.approx(line["seconds_a_step"], rel=0.05)
        for whole, own, slowest in zip(line["step_seconds"], line["own_seconds"], line["slowest_seconds"], strict=True):
            assert 0 < own <= min(whole, slowest)


@pytest.mark.ranks
def test_ranks_that_do_not_exchange_go_their_own_ways(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, full = make_pair(), cell(ranks=2, samples=8, epochs=1)
    for arm in ("full", "silent"):
        train_ranks(full.model_copy(update={"arm": arm}), data, tmp_path / arm)
    together, apart = losses(tmp_path / "full"), losses(tmp_path / "silent")
    assert apart[0] == together[0]  # from the same weights
    assert apart[1:] != together[1:]
    exchanged = [
        line["exchange_whole_seconds"] for line in read_metrics(tmp_path / "silent") if line["kind"] == "train"
    ]
    assert exchanged == [0.0] * 4


def test_made_up_data_are_the_first_batch_again_and_again(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, still = make_pair(), cell(samples=4, epochs=1, learning_rate=1e-12)
    for arm in ("full", "synthetic"):
        run(still.model_copy(update={"arm": arm}), data, tmp_path / arm)
    full, synthetic = losses(tmp_path / "full"), losses(tmp_path / "synthetic")
    assert synthetic == pytest.approx([full[0]] * 4, rel=1e-6)
    assert full[1:] != pytest.approx([full[0]] * 3, rel=1e-3)


@pytest.mark.parametrize(("number", "stop_at"), [(signal.SIGUSR2, 3), (signal.SIGTERM, 5)])
def test_a_signal_stops_at_the_next_step_and_the_losses_stay_the_same(
    make_pair: Callable[..., Path], tmp_path: Path, number: signal.Signals, stop_at: int
) -> None:
    data, settings = make_pair(), cell(log_steps=2)
    run(settings, data, tmp_path / "whole")

    def ask(done: int, total: int, note: str) -> None:
        if done == stop_at:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"saved itself after step {stop_at + 1}"):
        train(settings, data, SPLIT, tmp_path / "parts", World(), None, ask)
    assert signal.getsignal(number) == before
    assert Checkpoints(tmp_path / "parts" / "checkpoints").newest() == stop_at + 1
    run(settings, data, tmp_path / "parts")
    for kind in ("train", "validation"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_signal_in_a_validation_stops_too_and_it_is_made_again(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before the first step there is nothing to save but the start; afterwards the trained step is safe."""
    data, settings, calls = make_pair(), cell(), 0
    run(settings, data, tmp_path / "whole")

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
    for kind in ("train", "validation"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)


def _asked_rank(rank: int, settings: CellSettings, data: Path, folder: Path) -> None:
    """Only rank 1 gets the signal."""
    torch.set_num_threads(1)

    def ask(done: int, total: int, note: str) -> None:
        if rank == 1 and done == 1:
            os.kill(os.getpid(), signal.SIGUSR2)

    with joined(World(rank, 2, rank, f"file://{folder}.meet"), CPU), pytest.raises(Stopped, match="after step 2"):
        train(settings, data, SPLIT, folder, World(rank, 2, rank, "file://"), None, ask)


@pytest.mark.ranks
def test_all_ranks_stop_when_one_is_asked_to(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """In the middle of a line of metrics, to which every rank has something to add."""
    data, settings = make_pair(), cell(ranks=2, samples=8, log_steps=4)
    train_ranks(settings, data, tmp_path / "whole")
    run_ranks(_asked_rank, (settings, data, tmp_path / "parts"), 2)
    train_ranks(settings, data, tmp_path / "parts")
    for kind in ("train", "validation"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)


def test_checkpoints_come_every_so_many_steps(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    settings = cell(samples=6, epochs=1, checkpoint_steps=2, checkpoints_kept=9, log_steps=5)
    run(settings, make_pair(), tmp_path / "cell")
    assert [int(path.stem[5:]) for path in sorted((tmp_path / "cell" / "checkpoints").iterdir())] == [2, 4, 6]


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_broken_checkpoint_is_passed_over(make_pair: Callable[..., Path], tmp_path: Path, how: str) -> None:
    data = make_pair()
    run(cell(), data, tmp_path / "whole")
    run(cell(), data, tmp_path / "parts")
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": bytes(content[:-100]), "flipped": bytes(content), "empty": b""}[how])
    with pytest.warns(UserWarning, match=rf"passed over: .*{newest.name} is no readable checkpoint"):
        run(cell(), data, tmp_path / "parts")
    for kind in ("train", "validation"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)


def test_when_the_disk_is_full_the_old_checkpoint_survives(tmp_path: Path) -> None:
    """Not a byte more than 10 kB can be written to any file."""
    Checkpoints(tmp_path).save(1, {"x": torch.zeros(10)}, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"step 2 cannot be written \(File too large\); that of step 1 is kept"):
            Checkpoints(tmp_path).save(2, {"x": torch.zeros(10_000)}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert Checkpoints(tmp_path).newest() == 1


def _save_for_ever(folder: Path) -> None:
    for step in itertools.count(1):
        Checkpoints(folder).save(step, {"x": torch.full((100_000,), step)}, keep=2)


def test_whenever_saving_is_killed_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    last = 0
    for turn in range(8):
        saver = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path / str(turn),))
        saver.start()
        time.sleep(0.3 + 0.037 * turn)
        saver.kill()
        saver.join()
        found = Checkpoints(tmp_path / str(turn)).newest()
        last = max(last, found or 0)
        if found:
            assert Checkpoints(tmp_path / str(turn)).load(found)["x"].unique().tolist() == [found]
    assert last > 1


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_no_number_stops_the_training(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    said = r"loss or gradient of cell cell is not finite at step [2-9], where rank 0 saw toy/a; the last good"
    with pytest.raises(TrainingError, match=said):
        run(cell(learning_rate=1e30, epochs=4), make_pair(), tmp_path / "cell")
    assert all(math.isfinite(loss) for kind in ("train", "validation") for loss in losses(tmp_path / "cell", kind))


def _diverging_rank(_rank: int, data: Path, folder: Path) -> None:
    run(cell(learning_rate=1e30, epochs=4, loader_workers=1), data, folder)


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
        run(cell(learning_rate=3e37, epochs=1, samples=1), make_pair(), tmp_path / "cell")
    assert Checkpoints(tmp_path / "cell" / "checkpoints").newest() is None


def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        Checkpoints(tmp_path).save(step, {"step": step}, keep=2, also=[1])
    assert [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())] == [1, 3, 10]
    assert Checkpoints(tmp_path).newest() == 10
    assert Checkpoints(tmp_path).load(10) == {"step": 10}
    assert Checkpoints(tmp_path / "absent").newest() is None


def test_metrics_after_the_checkpoint_are_dropped_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, 0, 0) as metrics:
        for step in (1, 2, 3):
            metrics.write("train", step, 0, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsFile(tmp_path, 2, 2):
        pass
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_world_that_is_not_whole_fails(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)rank"), joined(World(3, 2, 0, f"file://{tmp_path}/meet"), CPU):
        pass


def test_a_compiled_network_trains_to_the_same_losses(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    for name, compiled in (("plain", False), ("compiled", True)):
        run(cell(2, compile=compiled, samples=2, epochs=1, validation_samples=1, learning_rate=1e-4), data,
            tmp_path / name)  # fmt: skip
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    model = load_trained(cell(2), tmp_path / "compiled")
    assert torch.isfinite(model(torch.zeros(1, 1, 16, 16))).all()
