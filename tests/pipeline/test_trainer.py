import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from data_prep.split import Segment, Split
from pipeline.config import CellSettings
from pipeline.models import DDnet, build_network
from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointError
from pipeline.training.distributed import joined, reduced
from pipeline.training.metrics_file import MetricsFile, read_metrics
from pipeline.training.trainer import TrainingError, load_trained, train
from pipeline.training.world import World
from tests.pipeline.cells import cell

CPU = torch.device("cpu")
SPLIT = Split("slabs", {
    "train": [Segment("toy", "a", 0, 24)],
    "validation": [Segment("toy", "a", 24, 40)],
    "test": [Segment("toy", "a", 40, 48)],
})  # fmt: skip


class Stopped(Exception):
    pass


def run(settings: CellSettings, data: Path, folder: Path, stop_at: int | None = None, **options: Any) -> dict[str, Any]:
    def progress(done: int, total: int, note: str) -> None:
        if done == stop_at:
            raise Stopped

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
    with pytest.raises(Stopped):
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
        assert reduced({"a": 1.0, "b": float(rank)}, world, CPU) == {"a": size, "b": size * (size - 1) / 2}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


def run_ranks(settings: CellSettings, data: Path, folder: Path, start: Path | None = None) -> list[dict[str, Any]]:
    start_processes(_rank, (settings, data, folder, settings.ranks, start), settings.ranks, start_method="spawn")
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(settings.ranks)]


def test_two_ranks_train_the_network_that_one_rank_trains_with_twice_the_batch(
    make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    """With frozen statistics nothing but the mean of the gradients joins the samples of a batch."""
    data, start = make_pair(), tmp_path / "start.pt"
    torch.manual_seed(5)
    torch.save(DDnet(3, residual=True).state_dict(), start)
    common: dict[str, Any] = {"norm": "frozen", "ms_ssim_weight": 0.0, "learning_rate": 1e-4, "validation_samples": 3}
    one = run(cell(batch=2, **common), data, tmp_path / "one", start=start)
    two = run_ranks(cell(batch=1, ranks=2, **common), data, tmp_path / "two", start)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert two[0]["validation"] == two[1]["validation"]
    for name, value in one["validation"].items():
        assert two[0]["validation"][name] == pytest.approx(value, rel=1e-4)


def test_ranks_resume_together(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, short, long = make_pair(), cell(ranks=2, epochs=2), cell(ranks=2, epochs=2)
    run_ranks(long, data, tmp_path / "whole")
    run_ranks(short, data, tmp_path / "parts")
    newest = checkpoint.newest(tmp_path / "parts" / "checkpoints")
    (tmp_path / "parts" / "checkpoints" / f"step-{newest:08d}.pt").unlink()
    run_ranks(long, data, tmp_path / "parts")
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


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoint.load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_no_number_stops_the_training(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of cell cell is (nan|inf) at step"):
        run(cell(learning_rate=1e30, epochs=4), make_pair(), tmp_path / "cell")
    assert all(math.isfinite(loss) for kind in ("train", "validation") for loss in losses(tmp_path / "cell", kind))


def test_weights_that_the_last_step_broke_are_not_kept(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """The loss of a step is that of the weights before it."""
    with pytest.raises(TrainingError, match=r"(validation loss|sum of weights) of cell cell is"):
        run(cell(learning_rate=3e37, epochs=1, samples=1), make_pair(), tmp_path / "cell")
    assert checkpoint.newest(tmp_path / "cell" / "checkpoints") is None


def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, {"step": step}, kept=2, also=[1])
    assert [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())] == [1, 3, 10]
    assert checkpoint.newest(tmp_path) == 10
    assert checkpoint.load(tmp_path, 10) == {"step": 10}
    assert checkpoint.newest(tmp_path / "absent") is None


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
