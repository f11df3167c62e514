"""``make bench``: ours and a named baseline in turn, medians, one table and ``bench.csv``.

``ratio`` is baseline / ours in seconds: above 1, ours is faster. ``goal`` is what it should reach.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from skimage.transform import iradon, radon
from torch import nn

from data_prep.files import write_atomic
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from data_prep.store import Pair, write_pair
from pipeline.models import DDnet, load_published
from tests.plain_ddnet import PlainDDnet

ROUNDS = 5
Timed = Callable[[], object]


def medians(ours: Timed, baseline: Timed, rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of both, run in turn after one warm-up each."""
    seconds: dict[Timed, list[float]] = {ours: [], baseline: []}
    for turn in range(rounds + 1):
        for call, taken in seconds.items():
            began = time.perf_counter()
            call()
            if turn:
                taken.append(time.perf_counter() - began)
    return statistics.median(seconds[ours]), statistics.median(seconds[baseline])


def train_step() -> tuple[float, float]:
    """A training step of 3D-DDnet on 16 x 128 x 128, both threads, against the network written plainly."""
    torch.set_num_threads(2)
    plain, model = PlainDDnet(3), DDnet(3)
    load_published(model, {name: value.numpy() for name, value in plain.state_dict().items()})
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.rand(1, 1, 16, 128, 128)
    return medians(_step(model, x), _step(plain, x), 3)


def _step(network: nn.Module, x: torch.Tensor) -> Timed:
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (network(x) - x).square().mean().backward()
        optimizer.step()

    return step


def low_dose() -> tuple[float, float]:
    """Low dose for one 512 x 512 slice on one core, against scikit-image's radon and iradon of 1152 views."""
    torch.set_num_threads(1)
    simulator = LowDoseSimulator(LowDoseSettings(backprojection="gridded"), 512, 0.7)
    slices = torch.zeros(512, 512, 16)
    image, angles = np.zeros((512, 512)), np.linspace(0, 180, 1152, endpoint=False)
    ours, baseline = medians(
        lambda: simulator.noise_hu(slices, list(range(16))),
        lambda: iradon(radon(image, angles), angles, filter_name="hann"),
        3,
    )
    return ours / 16, baseline


def load_grouped() -> tuple[float, float]:
    """16 neighbouring slices of a pair from Zarr, against a raw ``np.memmap`` of the same values."""
    hu = np.random.default_rng(0).normal(0, 60, (128, 512, 512)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path, raw = Path(folder) / "a.zarr", Path(folder) / "raw"
        write_pair(path, {"full_dose": hu, "low_dose": hu}, (1, 1, 1), {})
        hu.tofile(raw)
        pair, mapped = Pair(path), np.memmap(raw, np.int16, "r", shape=hu.shape)
        ours, baseline = medians(
            lambda: [pair.read(name, 50, 66) for name in ("full_dose", "low_dose")],
            lambda: [np.array(mapped[50:66]) for _ in range(2)],
        )
    return ours, baseline


BENCHES = {
    "train-step": (train_step, "plain 3D-DDnet", 1.2),
    "low-dose": (low_dose, "scikit-image radon + iradon", 50.0),
    "load-grouped": (load_grouped, "np.memmap", 0.2),
}


def rows() -> Iterator[dict[str, object]]:
    """Run each benchmark."""
    for name, (bench, baseline_name, goal) in BENCHES.items():
        ours, baseline = bench()
        yield {"name": name, "ours": round(ours, 5), "baseline": round(baseline, 5),
               "baseline_name": baseline_name, "ratio": round(baseline / ours, 3), "goal": goal}  # fmt: skip


def main() -> None:
    """Print the table and write ``bench.csv``."""
    found = list(rows())
    table = Table("name", "ours (s)", "baseline (s)", "baseline", "ratio", "goal", box=None)
    for row in found:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    write_atomic(Path("bench.csv"), pd.DataFrame(found).to_csv(index=False))


if __name__ == "__main__":
    main()
