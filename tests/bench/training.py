"""Benchmarks of training: a step against the plain network and the processor, and ranks against none."""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.utils.flop_counter import FlopCounterMode

from data_prep.files import write_json
from data_prep.progress import ignore_progress
from data_prep.split import Segment, Split
from pipeline.convolutions.memory_format import lay_out
from pipeline.models import DDnet, load_published
from pipeline.settings.cells import CellSettings
from pipeline.training.clock import StepClock
from pipeline.training.distributed import joined
from pipeline.training.metrics_file import PARTS
from pipeline.training.train import train
from pipeline.training.world import World
from tests.bench.loading import scratch, zarr_folder
from tests.bench.timing import Timed, medians, seconds_of
from tests.pipeline.cells import cell
from tests.plain_ddnet import PlainDDnet
from tests.scans import chest

ALIKE = 1e-4  # of two losses, relative
STEPS = 5
RATE = 1e-4  # at 1e-3 the plain network in float32 is farther than ALIKE from itself in float64


def train_step() -> tuple[float, float]:
    """A training step of 3D-DDnet on 16 x 128 x 128, both threads, against the network written plainly."""
    ours, plain, _ = _steps()
    return ours, plain


def train_step_sgemm() -> tuple[float, float]:
    """The same step, against the time that its own arithmetic takes at the rate of sgemm, the best of two libraries."""
    ours, _, floor = _steps()
    return ours, floor


@cache
def _steps() -> tuple[float, float, float]:
    """Median seconds of our step, of the plain one, and of as many FLOPs by sgemm, all in turn.

    Raises:
        RuntimeError: the losses of the two networks are not alike over five steps.
    """
    torch.set_num_threads(2)
    plain, model = PlainDDnet(3, residual=True), DDnet(3, residual=True, norm="batch")
    load_published(model, {name: value.numpy() for name, value in plain.state_dict().items()})
    lay_out(model, 3)
    target = torch.from_numpy(chest(16, 128).astype(np.float32))[None, None] / 100
    x = target + 0.4 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    losses: dict[nn.Module, list[float]] = {model: [], plain: []}
    calls = [_step(network, x, target, losses[network]) for network in losses]
    multiplications = [_multiply(torch.rand(2048, 2048)), _multiply(np.random.default_rng(0).random((2048, 2048), "f"))]
    times = [[seconds_of(call) for call in (*calls, *multiplications)] for _ in range(STEPS + 1)]
    ours, theirs, *products = (median(turns) for turns in zip(*times[1:], strict=True))
    _check_alike(losses[model], losses[plain])
    return ours, theirs, _flops(model, x) / (2 * 2048**3) * min(products)


def _step(network: nn.Module, x: Tensor, target: Tensor, losses: list[float]) -> Timed:
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss = (network(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return step


def _multiply(a: Any) -> Timed:
    return lambda: a @ a


def _check_alike(ours: Sequence[float], plain: Sequence[float]) -> None:
    difference = max(abs(a / b - 1) for a, b in zip(ours, plain, strict=True))
    if difference > ALIKE:
        raise RuntimeError(f"the losses are {difference:.1e} apart")


def _flops(network: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(x).mean().backward()
    return int(counter.get_total_flops())


def checkpointed_step() -> tuple[float, float]:
    """A step on 16 x 512 x 512 with activation checkpointing, against the plain network's; a goal of 1 / 1.4."""
    torch.set_num_threads(2)
    x = torch.rand(1, 1, 16, 512, 512)
    model = lay_out(DDnet(3, checkpointing=True), 3)
    return medians(_step(model, x, x, []), _step(PlainDDnet(3), x, x, []), 2)


def two_ranks() -> tuple[float, float]:
    """Seconds a step of two gloo ranks on 16 x 128 x 128, a thread each, against two unrelated trainings beside."""
    joint, separate, _ = _worlds()
    return joint, separate


def two_ranks_speed_up() -> tuple[float, float]:
    """Seconds a sample of two gloo ranks, against those of one rank alone."""
    joint, _, alone = _worlds()
    return joint / 2, alone


@cache
def _worlds() -> tuple[float, float, float]:
    """Median seconds a step: of two ranks, of two trainings side by side, of one alone; in turn."""
    pair = cell(ranks=2, **_HOW)
    single = cell(**{**_HOW, "samples": _HOW["samples"] // 2})
    turns = [(_trained([[pair]]), _trained([[single], [single]]), _trained([[single]])) for _ in range(4)]
    joint, separate, alone = (median(turn) for turn in zip(*turns[1:], strict=True))
    return joint, separate, alone


_HOW: dict[str, Any] = {
    "crop": 128, "samples": 16, "epochs": 1, "validation_samples": 1, "log_steps": 8, "threads": 1, "loader_workers": 0,
}  # fmt: skip


def _trained(worlds: Sequence[Sequence[CellSettings]]) -> float:
    """Mean seconds a step of trainings that run side by side, each of as many ranks as its cell says."""
    folders = [scratch(f"world{number}") for number in range(len(worlds))]
    running = [
        start_processes(
            _rank, (settings, zarr_folder(), folder, number), settings.ranks, join=False, start_method="spawn"
        )
        for number, ((settings,), folder) in enumerate(zip(worlds, folders, strict=True))
    ]
    for context in running:
        while not context.join():
            pass
    return float(np.mean([_result(folder)["step_seconds"]["whole"] for folder in folders]))


def _rank(rank: int, settings: CellSettings, data: Path, folder: Path, number: int) -> None:
    """One rank, or training, a core, as Slurm binds them."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number + rank]})
    world = World(rank, settings.ranks, rank, f"file://{folder}.meet" if settings.ranks > 1 else "")
    with joined(world, torch.device("cpu")):
        result = _train(settings, data, folder, world)
    if world.leads:
        write_json(folder / "result.json", result)


def _train(settings: CellSettings, data: Path, folder: Path, world: World) -> dict[str, Any]:
    slabs = [Segment(data.name, "a", *ends) for ends in ((0, 96), (98, 130))]
    split = Split("slabs", {"train": slabs[:1], "validation": slabs[1:], "test": []})
    return train(settings, data.parent, split, folder, world, None, ignore_progress)


def _result(folder: Path) -> dict[str, Any]:
    training_result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return training_result


def data_wait() -> tuple[float, float]:
    """Share of a step that waits for data, the larger of 2D's and 3D's, against 0.02; one rank, both cores."""
    return max(_share(dims) for dims in (2, 3)), 0.02


def checkpoint_pause() -> tuple[float, float]:
    """Seconds that one checkpoint takes, against a hundredth of the five minutes between two."""
    return _alone(3)["seconds"]["checkpoint"] / _EPOCHS, 3.0


_EPOCHS = 2


@cache
def _alone(dims: int) -> dict[str, Any]:
    """A training as a user would run it: 24 volumes of 16 x 64 x 64, or 800 slices of 64 x 64 in fours."""
    batch, samples = {2: (4, 400), 3: (1, 12)}[dims]
    settings = cell(dims, crop=64, batch=batch, samples=samples, epochs=_EPOCHS, threads=2, log_steps=10)
    return _train(settings, zarr_folder(), scratch(f"alone{dims}"), World())


def _share(dims: int) -> float:
    spent = _alone(dims)["step_seconds"]
    return float(spent["data"] / spent["whole"])


def step_clock() -> tuple[float, float]:
    """Seconds a step that splitting its time costs, against a hundredth of a step of 3D-DDnet on 16 x 64 x 64."""
    clock, rounds = StepClock(torch.device("cpu")), 1000

    def split() -> None:
        clock.start()
        for _ in range(rounds):
            for part in PARTS:
                clock.mark(part)
        clock.seconds()

    return median(seconds_of(split) for _ in range(STEPS)) / rounds, _alone(3)["step_seconds"]["whole"] / 100
