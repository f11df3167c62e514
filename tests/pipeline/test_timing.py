"""The times of steps and epochs, read back from what trainings wrote."""

import json
from pathlib import Path

import pytest

from pipeline.scaling.timing import epochs_table, step_quantiles, steps_table
from pipeline.settings.cells import CellSettings
from pipeline.training.metrics_file import PARTS, read_metrics
from tests.pipeline.cells import cell


def write(root: Path, settings: CellSettings, epochs: int, seconds: list[float], cold: int) -> None:
    folder = root / "cells" / settings.id
    folder.mkdir(parents=True)
    lines = []
    for epoch in range(epochs):
        warm = [epoch > 0 or step >= cold for step in range(len(seconds))]
        times = {"step_seconds": seconds, "own_seconds": seconds, "slowest_seconds": seconds, "warm": warm}
        parts = {f"{part}_seconds": 0.2 for part in PARTS}
        lines.append({"kind": "train", "step": (epoch + 1) * len(seconds), "epoch": epoch, **times, **parts})
        lines.append({"kind": "validation", "step": (epoch + 1) * len(seconds), "epoch": epoch, "rmse_hu": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_cold_steps_are_left_out_and_a_sample_s_time_is_that_of_the_world(tmp_path: Path) -> None:
    settings = cell(ranks=2, batch=3, samples=24)
    write(tmp_path, settings, epochs=2, seconds=[9.0, 9.0, 1.0, 2.0], cold=2)
    steps = steps_table([settings], {settings.id: read_metrics(tmp_path / "cells" / settings.id)})
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps["warm"].tolist() == [False] * 2 + [True] * 6
    assert set(steps["samples"]) == {6}
    epochs = epochs_table(steps)
    assert epochs["steps"].tolist() == [2, 4]
    assert epochs["seconds_a_sample"].tolist() == pytest.approx([1.5 / 6, 21 / 24])
    quantiles = step_quantiles(steps).loc[settings.id]
    assert quantiles["timed_steps"] == 6
    assert quantiles["step_p50_seconds"] == pytest.approx(2.0)


def test_a_training_that_wrote_nothing_has_no_rows(tmp_path: Path) -> None:
    steps = steps_table([cell()], {cell().id: read_metrics(tmp_path)})
    assert steps.empty
    assert epochs_table(steps).empty
    assert step_quantiles(steps).empty
