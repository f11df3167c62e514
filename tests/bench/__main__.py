"""``make bench``: ours and a named baseline in turn, medians, one table and ``bench.csv``.

A row is printed, and ``bench.csv`` written, when it is measured: what is stopped half-way keeps its rows.

``ratio`` is baseline / ours in seconds (``worker-memory``: in GiB): above 1, ours is the better. ``goal`` is what
it should reach. A benchmark whose data is not there is named as missing.
``python -m tests.bench NAME...`` runs only these.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from data_prep.errors import UserError
from data_prep.files import write_atomic
from tests.bench.denoising import denoise_throughput
from tests.bench.following import status_of_1219
from tests.bench.loading import load_grouped, load_grouped_memmap, load_strided, load_strided_memmap
from tests.bench.low_dose import fresh_noise, low_dose, low_dose_rate
from tests.bench.memory import saved_bytes
from tests.bench.preparation import prepare_scan, prepare_workers, read_dicom, worker_memory
from tests.bench.repeating import second_run
from tests.bench.report import report_200
from tests.bench.training import (
    checkpoint_pause,
    checkpointed_step,
    data_wait,
    step_clock,
    train_step,
    train_step_sgemm,
    two_ranks,
    two_ranks_speed_up,
)

BENCHES = {
    "train-step": (train_step, "plain 3D-DDnet", 1.2),
    "train-step-sgemm": (train_step_sgemm, "its FLOPs by sgemm", 0.65),
    "saved-bytes": (saved_bytes, "plain 3D-DDnet", 5.0),
    "saved-bytes-time": (checkpointed_step, "plain 3D-DDnet", round(1 / 1.4, 3)),
    "two-ranks": (two_ranks, "two unrelated trainings", 0.97),
    "two-ranks-speed-up": (two_ranks_speed_up, "one rank", 1.0),
    "data-wait": (data_wait, "2 % of a step", 1.0),
    "checkpoint-pause": (checkpoint_pause, "1 % of 5 minutes", 1.0),
    "step-clock": (step_clock, "1 % of a step", 1.0),
    "read-dicom": (read_dicom, "SimpleITK ImageSeriesReader", 1.5),
    "low-dose": (low_dose, "scikit-image radon + iradon", 50.0),
    "low-dose-rate": (low_dose_rate, "25 slices/s", 1.0),
    "fresh-noise": (fresh_noise, "25 slices/s", 1.0),
    "load-grouped": (load_grouped, "float32 TIFFs", 8.0),
    "load-grouped-memmap": (load_grouped_memmap, "np.memmap", 0.2),
    "load-strided": (load_strided, "float32 TIFFs", 8.0),
    "load-strided-memmap": (load_strided_memmap, "np.memmap", 0.2),
    "prepare-scan": (prepare_scan, "sum of its parts", 0.77),
    "prepare-workers": (prepare_workers, "two unrelated runs", 0.95),
    "report-200": (report_200, "60 s", 1.0),
    "denoise-throughput": (denoise_throughput, "its network alone", 0.8),
    "second-run": (second_run, "3 s", 1.0),
    "status-1219": (status_of_1219, "2 s", 1.0),
    "worker-memory": (worker_memory, "3 GiB", 1.0),
}


FILE = Path("bench.csv")


def measure(name: str) -> dict[str, object]:
    """Run one benchmark; return its row, which says so where its data is missing."""
    bench, baseline_name, goal = BENCHES[name]
    row = {
        "name": name,
        "ours": "data missing",
        "baseline": "",
        "baseline_name": baseline_name,
        "ratio": "",
        "goal": goal,
    }
    with suppress(FileNotFoundError, StopIteration, UserError):
        ours, baseline = bench()
        row |= {"ours": round(ours, 5), "baseline": round(baseline, 5), "ratio": round(baseline / ours, 3)}
    return row


def measure_all(names: Sequence[str], path: Path) -> list[dict[str, object]]:
    """Run the benchmarks in turn; each row is printed and the file written as soon as it is measured."""
    rows = list[dict[str, object]]()
    for number, name in enumerate(names, 1):
        print(f"{number}/{len(names)} {name} ...", end=" ", flush=True)
        start = time.perf_counter()
        row = measure(name)
        rows.append(row)
        write_atomic(path, pd.DataFrame(rows).to_csv(index=False))
        seconds = time.perf_counter() - start
        print(f"ours {row['ours']}, baseline {row['baseline']}, ratio {row['ratio']} ({seconds:.0f} s)", flush=True)
    return rows


def main() -> None:
    """Measure those named, or all; print the table at the end."""
    if unknown := set(sys.argv[1:]) - set(BENCHES):
        sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    table = Table("name", "ours", "baseline", "baseline is", "ratio", "goal", box=None)
    for row in measure_all(sys.argv[1:] or list(BENCHES), FILE):
        table.add_row(*(str(cell) for cell in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
