"""Trainings of a toy pair, by one rank or several, and their losses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.files import write_json
from data_prep.split import Segment, Split
from pipeline.settings.cells import CellSettings
from pipeline.training.checkpoints import load_trained
from pipeline.training.distributed import joined
from pipeline.training.metrics_file import read_metrics
from pipeline.training.ranks import Ranks
from pipeline.training.train import train
from pipeline.training.world import World
from tests.ranks import run_ranks

CPU = torch.device("cpu")
Trained = Callable[[CellSettings], tuple[Path, dict[str, Any]]]
"""Trains a cell to its end, or did so before: its folder and its result."""


SPLIT = Split("slabs", {
    "train": [Segment("toy", "a", 0, 24)],
    "validation": [Segment("toy", "a", 24, 40)],
    "test": [Segment("toy", "a", 40, 48)],
})  # fmt: skip


class Halted(Exception):
    pass


def run(settings: CellSettings, data: Path, folder: Path, stop_at: int | None = None, **options: Any) -> dict[str, Any]:
    def progress(count: int, total: int, note: str) -> None:
        if count == stop_at:
            raise Halted

    result = train(settings, data, SPLIT, folder, options.get("world", World()), options.get("start"), progress)
    write_json(folder / "result.json", result)
    return result


def losses(folder: Path, kind: str = "train") -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if line["kind"] == kind]


def assert_same_losses(ours: Path, theirs: Path) -> None:
    for kind in ("train", "validation"):
        assert losses(ours, kind) == losses(theirs, kind)


def assert_killed_ends_alike(settings: CellSettings, data: Path, folder: Path) -> None:
    """Check that a training that was killed after its first step ends with the bits of one that was not."""
    run(settings, data, folder / "uncut")
    with pytest.raises(Halted):
        run(settings, data, folder / "killed", stop_at=1)
    run(settings, data, folder / "killed")
    assert_same_losses(folder / "killed", folder / "uncut")
    uncut, killed = (load_trained(settings, folder / name).state_dict() for name in ("uncut", "killed"))
    assert all(torch.equal(weights, uncut[name]) for name, weights in killed.items())


def _rank(rank: int, settings: CellSettings, data: Path, folder: Path, size: int, start: Path | None) -> None:
    torch.set_num_threads(1)
    world = World(rank, size, rank, f"file://{folder}.meet")
    with joined(world, CPU):
        result = train(settings, data, SPLIT, folder, world, start, lambda count, total, note: None)
        assert Ranks(world, CPU).sum({"a": 1.0, "b": float(rank)}) == {"a": size, "b": size * (size - 1) / 2}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


def train_ranks(settings: CellSettings, data: Path, folder: Path, start: Path | None = None) -> list[dict[str, Any]]:
    run_ranks(_rank, (settings, data, folder, settings.ranks, start), settings.ranks)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(settings.ranks)]
