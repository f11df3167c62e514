"""GPU-hours of a training whose start Slurm forgot, as its controller was killed before it had saved it."""

import os
from pathlib import Path

import pytest

from jobs.engine.marker import Marker, Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import Submissions
from jobs.stages.accounting import accounting_table
from jobs.stages.graph import graph_of
from pipeline.settings.run import RunSettings

# of Slurm 22.05: the job ran from 1795769304 on, slurmctld was killed 0.3 s later, and started it anew
FORGOTTEN = ("49488001|COMPLETED|0:0|None|1795769304|1795769304|1795769311|1795769336|25|"
             "billing=2,cpu=2,gres/gpu=2,mem=64G,node=1|node1")  # fmt: skip


def study(root: Path, training_seconds: float) -> RunFolder:
    """A run folder of which one training of two ranks, on a GPU each, was in Slurm's queue."""
    settings = RunSettings.model_validate({"name": "t", "runs": root, "data": {"sources": [{"kind": "sample"}]}})
    folder = RunFolder.of(settings)
    folder.root.mkdir()
    seconds = {"training": training_seconds, "validation": 1.0, "checkpoint": 0.5, "start": 0.5}
    Markers(folder.root, "study").write("3d-s16-r2", Marker("done", {}, 1.0, 1.0, "", {"seconds": seconds}))
    Submissions(folder.root).add("study", ["3d-s16-r2"], ["49488001"], 2, 2)
    return folder


@pytest.fixture
def _sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sacct"
    program.write_text(f"#!/bin/sh\necho '{FORGOTTEN}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("_sacct")
@pytest.mark.parametrize(("training", "lost"), [(20.0, 3.0), (28.0, None)])
def test_hours_that_slurm_forgot_are_not_lost_ones(
    tmp_path: Path, training: float, lost: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(tmp_path, training)
    (row,) = accounting_table(folder, graph_of(folder)).to_dict("records")
    assert (row["starts"], row["source"]) == (1, "sacct")
    assert row["gpu_hours"] == pytest.approx(2 * 25 / 3600)
    assert row["training_gpu_hours"] == pytest.approx(2 * training / 3600)
    assert row["lost_gpu_hours"] == pytest.approx(float("nan") if lost is None else 2 * lost / 3600, nan_ok=True)
    message = "study/3d-s16-r2: Slurm's accounting counts 0.0139 GPU-hours, the training's own record 0.0167"
    assert (message in capsys.readouterr().out) == (lost is None)


def test_run_and_search_count_the_hours_of_one_another_where_slurm_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without sacct
    folder = study(tmp_path, 20.0)
    for seconds, item in ((30.0, "a-t0000"), (60.0, "a-t0001")):
        Markers(folder.root, "search-1-1").write(item, Marker("done", {}, 1.0, seconds, "", {}))
    Submissions(folder.root).add("search-1-1", ["a-t0000", "a-t0001"], ["49488002"], 2, 1)
    rows = accounting_table(folder, graph_of(folder)).set_index("stage")
    assert set(rows["source"]) == {"markers"}
    assert rows["gpu_hours"].to_dict() == pytest.approx({"study": 2 / 3600, "search-1-1": 90 / 3600})
