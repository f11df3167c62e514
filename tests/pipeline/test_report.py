import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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
            judge(root, cell.id, {"2d": 50.0, "3d-s16-r1": 20.0}.get(cell.id, 30.0))
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
        "precision": "float32",
        "effective_batch": cell.ranks,
        "cpu_seconds": 1.0,
        "version": "0",
        "data": "d",
        "nodes": ["node1"],
    }
    result |= {"seconds": {"training": 100.0 / cell.ranks}, "validation": {"rmse_hu": 30.0}}
    (folder / "result.json").write_text(json.dumps(result))
    steps = {0: 30.0} if cell.transfer == "zero" else {0: 40.0, 4: 30.0}
    judged = {"kind": "validation", "epoch": 0, "low_dose_rmse_hu": 40.0}
    lines = [{"kind": "train", "step": 1, "epoch": 0, "loss": 0.5}]
    lines += [{**judged, "step": step, "rmse_hu": rmse} for step, rmse in steps.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_partial_study_gives_a_partial_report(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d", "3d-s16-r1"})
    states = {"2d": ("done", ""), "3d-s16-r1": ("done", ""), "3d-s16-r2": ("failed", f"rank 1 died {HOSTILE}")}
    given = pd.DataFrame([{"stage": "study", "item": HOSTILE, "gpus": 2, "gpu_hours": 1.5, "source": "sacct"}])
    write_report(tmp_path, settings, cells, states, ["low-dose", "2d", "3d-s16-r1"], given)
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
    assert page.count("&lt;script&gt;alert(1)") == 3
    assert "<td>1.5</td><td>sacct</td>" in page
    assert re.search(r"Worse than the low-dose input left alone: 2d\.", page)
    summary = (report / "summary.txt").read_text()
    assert "3d-s16-r2: failed: rank 1 died" in summary


def test_a_report_without_any_training_still_has_the_input(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, set())
    write_report(
        tmp_path, settings, cells, {cell.id: ("missing", "not trained") for cell in cells}, ["low-dose"], pd.DataFrame()
    )
    assert pd.read_csv(tmp_path / "report" / "quality.csv")["model"].tolist() == ["low-dose"]
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_red_cnn_and_several_transfers_stand_side_by_side(tmp_path: Path) -> None:
    settings = RunSettings.model_validate({
        "name": "t", "data": {"sources": [{"kind": "sample"}]}, "red_cnn": {},
        "study": {"slices": [16], "ranks": [1, 2], "transfer": ["none", "zero", "repeat"]},
    })  # fmt: skip
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    fill(tmp_path, cells, set(ids))
    result = tmp_path / "cells" / "redcnn" / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "cpu_seconds": 12.5, "effective_batch": 4}))
    write_report(tmp_path, settings, cells, dict.fromkeys(ids, ("done", "")), ["low-dose", *ids], pd.DataFrame())
    report = tmp_path / "report"
    trained = pd.read_csv(report / "cells.csv").set_index("cell")
    assert trained["model"].to_dict() == {**dict.fromkeys(ids, "ddnet"), "redcnn": "redcnn"}
    assert trained["transfer"].to_dict() == {cell.id: cell.transfer for cell in cells}
    assert trained["cpu_seconds"]["redcnn"] == 12.5
    assert trained["effective_batch"]["redcnn"] == 4
    assert pd.read_csv(report / "quality.csv")["model"].tolist() == ["low-dose", *ids]
    speed = pd.read_csv(report / "speedup.csv")
    fills = ["none", "zero", "repeat"]
    assert speed["transfer"].tolist() == [name for name in fills for _ in (1, 2)]
    assert speed["baseline"].tolist() == [
        cell for cell in ("3d-s16-r1-none", "3d-s16-r1", "3d-s16-r1-repeat") for _ in (1, 2)
    ]
    transfer = pd.read_csv(report / "transfer.csv").set_index("cell")
    assert transfer["steps_to_2d"].to_dict() == {cell.id: 0 if cell.transfer == "zero" else 4 for cell in cells[2:]}
    saved = {"zero": 4.0, "repeat": 0.0}
    assert transfer["steps_saved"].dropna().to_dict() == {
        cell.id: saved[cell.transfer] for cell in cells if cell.transfer in saved
    }
    summary = (report / "summary.txt").read_text().splitlines()
    assert "as good as 2d in validation (75.0% of the input's RMSE)" in summary
    assert "3d-s16-r2               zero             0       4" in summary
    assert "3d-s16-r2-none          none             4" in [line.rstrip() for line in summary]
    with Image.open(report / "slices.png") as picture:
        assert picture.width == 120 * 3 * 5  # low dose, 2D, RED-CNN, the best 3D, full dose
    assert "Steps until as good as the 2D-DDnet" in (report / "index.html").read_text()
