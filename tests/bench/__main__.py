"""``make bench``: ours and a named baseline in turn, medians, one table and ``bench.csv``.

``ratio`` is baseline / ours in seconds (``worker-memory``: in GiB): above 1, ours is the better. ``goal`` is what
it should reach. A benchmark whose data is not there is named as missing.
``python -m tests.bench NAME...`` runs only these.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from data_prep.errors import UserError
from data_prep.files import write_atomic
from tests.bench.denoising import denoise_throughput
from tests.bench.loading import load_grouped, load_grouped_memmap, load_strided, load_strided_memmap
from tests.bench.low_dose import low_dose, low_dose_rate
from tests.bench.memory import saved_bytes
from tests.bench.preparation import prepare_scan, prepare_workers, read_dicom, worker_memory
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
    "low-dose-rate": (low_dose_rate, "10 slices/s", 1.0),
    "load-grouped": (load_grouped, "float32 TIFFs", 8.0),
    "load-grouped-memmap": (load_grouped_memmap, "np.memmap", 0.2),
    "load-strided": (load_strided, "float32 TIFFs", 8.0),
    "load-strided-memmap": (load_strided_memmap, "np.memmap", 0.2),
    "prepare-scan": (prepare_scan, "sum of its parts", 0.77),
    "prepare-workers": (prepare_workers, "two unrelated runs", 0.95),
    "report-200": (report_200, "60 s", 1.0),
    "denoise-throughput": (denoise_throughput, "its network alone", 0.8),
    "worker-memory": (worker_memory, "3 GiB", 1.0),
}


def rows(names: Sequence[str]) -> Iterator[dict[str, object]]:
    """Run each benchmark."""
    for name in names:
        bench, baseline_name, goal = BENCHES[name]
        try:
            ours, baseline = bench()
        except (FileNotFoundError, StopIteration, UserError):
            yield {"name": name, "ours": "data missing", "baseline": "", "baseline_name": baseline_name, "ratio": "",
                   "goal": goal}  # fmt: skip
            continue
        yield {"name": name, "ours": round(ours, 5), "baseline": round(baseline, 5),
               "baseline_name": baseline_name, "ratio": round(baseline / ours, 3), "goal": goal}  # fmt: skip


def main() -> None:
    """Print the table and write ``bench.csv``."""
    found = list(rows(sys.argv[1:] or list(BENCHES)))
    table = Table("name", "ours", "baseline", "baseline is", "ratio", "goal", box=None)
    for row in found:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    write_atomic(Path("bench.csv"), pd.DataFrame(found).to_csv(index=False))


if __name__ == "__main__":
    main()
