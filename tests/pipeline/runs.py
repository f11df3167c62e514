"""Run folders as the stages leave them, with made-up figures."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.quality.measures import MEASURES, SLICE_MEASURES, names
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import RunSettings
from pipeline.training.metrics_file import PARTS

Hu = NDArray[np.int16]
RMSE_HU = {"low-dose": 40.0, "2d": 50.0, "redcnn": 28.0, "3d-s16-r1": 20.0}
OTHER_RMSE_HU = 30.0
DATASETS = ("LIDC-IDRI", "Mayo")
SLICE_VALUES, SCAN_VALUES = dict.fromkeys(names(SLICE_MEASURES), 0.5), dict.fromkeys(names(MEASURES), 0.5)


WITH_RED_CNN = {
    "2d": {"model": "ddnet", "dims": 2}, "redcnn": {"model": "redcnn", "dims": 2}, "3d": {"model": "ddnet", "dims": 3},
}  # fmt: skip


def settings_of(**values: Any) -> RunSettings:
    """Settings of a run of the sample."""
    return RunSettings.model_validate({"name": "t", "data": {"sources": [{"kind": "sample"}]}, **values})


def fill(
    root: Path,
    cells: Sequence[CellSettings],
    trained: Collection[str],
    scan: str = "s",
    full: Hu | None = None,
    lines: int = 1,
) -> None:
    """What judging and the trainings of ``trained`` leave; ``full``: HU of the example (slices, rows, columns)."""
    for name in ("data", "evaluation"):
        (root / name).mkdir()
    parts = {part: [{"dataset": "d", "scan": scan, "start": 0, "stop": 4}] for part in ("train", "validation", "test")}
    (root / "data" / "split.json").write_text(json.dumps({"by": "slabs", "parts": parts}))
    row = {"dataset": "d", "subject": "p", "scan": scan, "state": "kept", "reason": "", "slices": 40,
           "low_dose": "measured"}  # fmt: skip
    rows = [row, *({**row, "dataset": dataset, "scan": f"s-{dataset}"} for dataset in DATASETS)]
    pd.DataFrame(rows).to_csv(root / "data" / "manifest.csv", index=False)
    (root / "provenance.json").write_text("{}")
    full = np.full((3, 64, 64), -500, np.int16) if full is None else full
    judge(root, "low-dose", full)
    for cell in cells:
        if cell.id in trained:
            judge(root, cell.id, full)
            train(root, cell, lines)


def judge(root: Path, model: str, full: Hu, dose: float | None = 0.25) -> None:
    """Two data sets of three slices; the example is off by noise of the model's error. ``dose``: None if measured."""
    rmse = RMSE_HU.get(model, OTHER_RMSE_HU)
    rows = [{"dataset": dataset, "scan": f"s-{dataset}", "slice": z, "dose": dose, **SLICE_VALUES, "mse": 1e-4 * rmse,
             "ms_ssim": 1 - (rmse + 2 * z + 5 * n) / 1000, "rmse_hu": rmse + z}
            for n, dataset in enumerate(DATASETS) for z in range(3)]  # fmt: skip
    (root / "evaluation" / f"{model}.json").write_text(json.dumps(rows))
    scans = [{"part": "test", "dataset": dataset, "scan": f"s-{dataset}", "dose": dose, "slices": 3,
              "noise_blocks": 9, **SCAN_VALUES, "rmse_hu": rmse, "noise_sd": rmse, "sharpness": 1 - 0.01 * len(model),
              "nps": [[0.1, 0.3, 0.5], [rmse, 2 * rmse, rmse]]}
             for dataset in DATASETS]  # fmt: skip
    (root / "evaluation" / f"{model}.scans.json").write_text(json.dumps(scans))
    (root / "evaluation" / f"{model}.times.json").write_text(json.dumps({"slice_ms": 200.0}))
    noise = np.random.default_rng(len(model)).normal(0, rmse, full.shape)
    image = np.clip(full + noise, -1024, 3071).round().astype(np.int16)
    np.savez(root / "evaluation" / f"{model}.npz", image=image, full_dose=full)


def train(root: Path, cell: CellSettings, lines: int = 1) -> None:
    """A training of ``lines`` lines whose time falls a little slower than its ranks grow."""
    folder = root / "cells" / cell.id
    folder.mkdir(parents=True)
    seconds = 100.0 * cell.slices / 16 * (0.95 / cell.ranks + 0.05)
    result: dict[str, Any] = {
        "parameters": 2_619_155, "steps": 4, "stopped_early": False, "checkpoint_step": 4, "samples": 4,
        "peak_bytes": 2**30, "device": "cpu", "torch": "2",
        "effective_batch": cell.ranks, "cpu_seconds": 1.0, "precision": "float32", "version": "0", "data": "d",
        "nodes": ["node1", "node2"][: 1 + cell.ranks // 4],
        "seconds": {"training": seconds, "validation": 5.0, "start": 1.0, "checkpoint": 0.5},
        "validation": {"rmse_hu": 30.0, "low_dose_rmse_hu": 40.0},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    steps = {0: 30.0} if cell.transfer == "zero" else {0: 40.0, 4: 30.0}
    steps |= {step: 30 - 8 * step / lines for step in range(10, lines, 10)}
    judged = {"kind": "validation", "epoch": 0, "low_dose_rmse_hu": 40.0}
    generator = np.random.default_rng(cell.training.seed + cell.slices)
    parts = {f"{part}_seconds": seconds / 1000 for part in PARTS}
    times = {f"{name}_seconds": [seconds * cell.ranks / 100] for name in ("step", "own", "slowest")}
    trained = [
        {"kind": "train", "step": step, "epoch": 0, "loss": float(generator.gamma(20, 0.5 / 20)) / step**0.5,
         **times, "warm": [step > 10], **parts}
        for step in range(1, lines + 1)
    ]  # fmt: skip
    written = trained + [{**judged, "step": step, "rmse_hu": rmse} for step, rmse in steps.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))


def write_load(root: Path, cell: str, load: dict[str, float]) -> None:
    """Record in a training's result what was measured of other work beside it."""
    path = root / "cells" / cell / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "load": load}))
