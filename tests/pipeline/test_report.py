import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config import CellSettings, RunSettings, cells_of
from pipeline.metrics import METRICS
from pipeline.report import write_report

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def settings() -> RunSettings:
    return RunSettings.model_validate(
        {"name": "t", "data": {"sources": [{"kind": "sample"}]}, "study": {"slices": [16]}}
    )


def fill(root: Path, cells: list[CellSettings], done: set[str]) -> None:
    """A run folder as the stages leave it, with made-up figures."""
    for name in ("data", "evaluation"):
        (root / name).mkdir()
    parts = {part: [{"dataset": "d", "scan": "s", "start": 0, "stop": 4}] for part in ("train", "validation", "test")}
    (root / "data" / "split.json").write_text(json.dumps({"by": "slabs", "parts": parts}))
    row = {"dataset": "d", "subject": "p", "scan": "s", "state": "turned away", "reason": HOSTILE}
    pd.DataFrame([row]).to_csv(root / "data" / "manifest.csv", index=False)
    (root / "provenance.json").write_text("{}")
    judge(root, "low-dose", 40.0)
    for cell in cells:
        if cell.id in done:
            judge(root, cell.id, 50.0 if cell.id == "2d" else 20.0)
            train(root, cell)


def judge(root: Path, model: str, rmse: float) -> None:
    rows = [{"scan": "s", "slice": z, **dict.fromkeys(METRICS, 0.5), "rmse_hu": rmse + z} for z in range(3)]
    (root / "evaluation" / f"{model}.json").write_text(json.dumps(rows))
    image = np.full((64, 64), -500, np.int16)
    np.savez(root / "evaluation" / f"{model}.npz", image=image + int(rmse), full_dose=image)


def train(root: Path, cell: CellSettings) -> None:
    folder = root / "cells" / cell.id
    folder.mkdir(parents=True)
    result: dict[str, Any] = {
        "parameters": 1,
        "steps": 4,
        "samples": 4,
        "peak_bytes": 2**30,
        "device": "cpu",
        "torch": "2",
    }
    result |= {"seconds": {"training": 100.0 / cell.ranks}, "validation": {"rmse_hu": 30.0}}
    (folder / "result.json").write_text(json.dumps(result))
    judged = {"kind": "validation", "step": 1, "epoch": 0, "rmse_hu": 30.0, "low_dose_rmse_hu": 40.0}
    lines = [{"kind": "train", "step": 1, "epoch": 0, "loss": 0.5}, judged]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_partial_study_gives_a_partial_report(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d", "3d-s16-r1"})
    states = {"2d": ("done", ""), "3d-s16-r1": ("done", ""), "3d-s16-r2": ("failed", f"rank 1 died {HOSTILE}")}
    write_report(tmp_path, settings, cells, states, ["low-dose", "2d", "3d-s16-r1"])
    report = tmp_path / "report"
    trained = pd.read_csv(report / "cells.csv").set_index("cell")
    assert trained.loc["3d-s16-r2", "state"] == "failed"
    assert np.isnan(trained["training_seconds"]["3d-s16-r2"])
    assert pd.read_csv(report / "speedup.csv")["cell"].tolist() == ["3d-s16-r1"]
    quality = pd.read_csv(report / "quality.csv").set_index("model")
    assert quality["rmse_hu_mean"].to_dict() == {"low-dose": 41, "2d": 51, "3d-s16-r1": 21}
    assert quality["rmse_hu_sd"]["2d"] == 1
    assert quality["rmse_change"]["3d-s16-r1"] == pytest.approx(21 / 41 - 1)
    assert quality["beats_input"].to_dict() == {"low-dose": "-", "2d": "no", "3d-s16-r1": "yes"}
    page = (report / "index.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") == 2
    assert re.search(r"Worse than the low-dose input left alone: 2d\.", page)
    summary = (report / "summary.txt").read_text()
    assert "3d-s16-r2: failed: rank 1 died" in summary


def test_a_report_without_any_training_still_has_the_input(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, set())
    write_report(tmp_path, settings, cells, {cell.id: ("missing", "not trained") for cell in cells}, ["low-dose"])
    assert pd.read_csv(tmp_path / "report" / "quality.csv")["model"].tolist() == ["low-dose"]
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
