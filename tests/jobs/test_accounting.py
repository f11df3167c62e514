"""GPU-hours where Slurm forgot a start, does not count GPUs, or does not count at all."""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.engine.marker import Marker, Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import Submissions
from jobs.stages.accounting import accounting_table
from jobs.stages.graph import graph_of
from pipeline.settings.run import BudgetSettings, RunSettings
from tests.programs import write_program

SUBMITTED = 1795769304
# of Slurm 22.05: the job ran from 1795769304 on, slurmctld was killed 0.3 s later, and started it anew
FORGOTTEN = ("49488001|COMPLETED|0:0|None|1795769304|1795769304|1795769311|1795769336|25|"
             "billing=2,cpu=2,gres/gpu=2,mem=64G,node=1|node1")  # fmt: skip

# as by Slurm's default, AccountingStorageTRES without gres/gpu
WITHOUT_GPUS = [line.format("billing=2,cpu=2,mem=64G,node=1") for line in (
    "49488001|PREEMPTED|0:0|None|1795769304|1795769304|1795769311|1795769321|10|{}|node1",
    "49488001|COMPLETED|0:0|None|1795769322|1795769322|1795769331|1795769356|25|{}|node2",
    "49488002_0|COMPLETED|0:0|None|1795769304|1795769304|1795769311|1795769411|100|{}|node1",
    "49488002_1|COMPLETED|0:0|None|1795769304|1795769304|1795769311|1795769361|50|{}|node2",
    "49488003|COMPLETED|0:0|None|1795769304|1795769304|1795769311|1795769318|7|{}|node2",
)]  # fmt: skip


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
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], None]:
    """Let Slurm's accounting say these lines from here on, as of jobs that were submitted now."""
    later = int(time.time()) - SUBMITTED

    def says(lines: Sequence[str]) -> None:
        shifted = (re.sub(r"\b17957\d{5}\b", lambda match: str(int(match.group()) + later), line) for line in lines)
        write_program(tmp_path, "sacct", "\n".join(["cat <<END", *shifted, "END"]))

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return says


@pytest.mark.parametrize(("training", "lost"), [(20.0, 3.0), (28.0, None)])
def test_hours_that_slurm_forgot_are_not_lost_ones(
    tmp_path: Path, training: float, lost: float | None, sacct: Callable[[Sequence[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sacct([FORGOTTEN])
    folder = study(tmp_path, training)
    (row,) = accounting_table(folder, graph_of(folder)).to_dict("records")
    assert (row["starts"], row["source"]) == (1, "sacct")
    assert row["gpu_hours"] == pytest.approx(2 * 25 / 3600)
    assert row["training_gpu_hours"] == pytest.approx(2 * training / 3600)
    assert row["lost_gpu_hours"] == pytest.approx(float("nan") if lost is None else 2 * lost / 3600, nan_ok=True)
    message = "study/3d-s16-r2: Slurm's accounting counts 0.0139 GPU-hours, the training's own record 0.0167"
    assert (message in capsys.readouterr().out) == (lost is None)


def test_gpus_that_slurm_does_not_count_are_those_that_jobs_asked_for(
    tmp_path: Path, sacct: Callable[[Sequence[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sacct(WITHOUT_GPUS)
    folder = study(tmp_path, 20.0)
    Submissions(folder.root).add("evaluate", ["a", "b"], ["49488002"], 2, 1)  # an array of two tasks, a GPU each
    Submissions(folder.root).add("report", ["report"], ["49488003"], 1, 0)
    rows = accounting_table(folder, graph_of(folder)).set_index("stage")
    hours = {"study": 2 * (10 + 25) / 3600, "evaluate": (100 + 50) / 3600, "report": 0.0}
    assert rows["gpu_hours"].to_dict() == pytest.approx(hours)
    cores = {"study": 2 * (10 + 25) / 3600, "evaluate": 2 * (100 + 50) / 3600, "report": 2 * 7 / 3600}
    assert rows["core_hours"].to_dict() == pytest.approx(cores)
    waited = {"study": (7 + 9) / 3600, "evaluate": (7 + 7) / 3600, "report": 7 / 3600}
    assert rows["waited_hours"].to_dict() == pytest.approx(waited)
    by_request = "sacct, GPUs by request"
    assert rows["source"].to_dict() == {"study": by_request, "evaluate": by_request, "report": "sacct"}
    assert rows.loc["study", "lost_gpu_hours"] == pytest.approx(2 * (10 + 3) / 3600)
    assert "Slurm forgets" not in capsys.readouterr().out


def test_a_submission_from_before_slurm_counted_gpus_counts_beside_a_later_one(
    tmp_path: Path, sacct: Callable[[Sequence[str]], None]
) -> None:
    sacct([*WITHOUT_GPUS[:2], FORGOTTEN.replace("49488001", "49488004")])
    folder = study(tmp_path, 20.0)
    Submissions(folder.root).add("study", ["3d-s16-r2"], ["49488004"], 2, 2)
    (row,) = accounting_table(folder, graph_of(folder)).to_dict("records")
    assert (row["gpu_hours"], row["starts"]) == (pytest.approx(2 * (10 + 25 + 25) / 3600), 3)
    assert row["source"] == "sacct, GPUs by request"


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


def test_trainings_after_the_first_report_are_counted_where_slurm_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without sacct
    folder = study(tmp_path, 20.0)
    graph = graph_of(folder)
    first = accounting_table(folder, graph)
    folder.report.mkdir()
    first.to_csv(folder.report / "accounting.csv", index=False)
    Markers(folder.root, "study").write("3d-s16-r2", Marker("done", {}, 1.0, 9.0, "", {"seconds": {}}))
    Markers(folder.root, "train").write("2d", Marker("failed", {}, 1.0, 40.0, "", {}))
    Submissions(folder.root).add("train", ["2d"], ["49488005"], 1, 3)
    rows = accounting_table(folder, graph).set_index("stage")
    assert first["gpu_hours"].tolist() == pytest.approx([2 / 3600])
    assert rows["gpu_hours"].to_dict() == pytest.approx({"study": 2 * 9 / 3600, "train": 3 * 40 / 3600})
    assert rows["item"].to_dict() == {"study": "3d-s16-r2", "train": "2d"}


@pytest.mark.parametrize("lines", [[FORGOTTEN], WITHOUT_GPUS[1:2]])
def test_hours_that_slurm_counted_stay_when_it_counts_no_longer(
    tmp_path: Path, lines: Sequence[str], sacct: Callable[[Sequence[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct(lines)
    folder = study(tmp_path, 20.0)
    graph = graph_of(folder)
    first = accounting_table(folder, graph)
    folder.report.mkdir()
    first.to_csv(folder.report / "accounting.csv", index=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    Markers(folder.root, "prepare").write("a", Marker("done", {}, 1.0, 40.0, "", {}))
    Submissions(folder.root).add("prepare", ["a"], ["49488005"], 1, 1)
    priced = RunFolder(folder.root, folder.settings.model_copy(update={"budget": BudgetSettings(gpu_hour_price=2)}))
    counted, marked = accounting_table(priced, graph).to_dict("records")
    (before,) = first.to_dict("records")
    names = ("stage", "item", "gpus", "starts", "waited_hours", "gpu_hours", "core_hours", "lost_gpu_hours", "source")
    assert [counted[name] for name in names] == [before[name] for name in names]
    assert (marked["item"], marked["gpu_hours"], marked["source"]) == ("", pytest.approx(40 / 3600), "markers")
    assert [row["bill"] for row in (counted, marked)] == pytest.approx([2 * 2 * 25 / 3600, 2 * 40 / 3600])


def test_what_slurm_counts_now_goes_before_what_it_counted_for_an_earlier_report(
    tmp_path: Path, sacct: Callable[[Sequence[str]], None]
) -> None:
    """As of a training that was still at work."""
    sacct([FORGOTTEN])
    folder = study(tmp_path, 20.0)
    folder.report.mkdir()
    (folder.report / "accounting.csv").write_text("stage,item,gpu_hours,source\nstudy,3d-s16-r2,0.001,sacct\n")
    (row,) = accounting_table(folder, graph_of(folder)).to_dict("records")
    assert row["gpu_hours"] == pytest.approx(2 * 25 / 3600)


def test_a_training_is_counted_whichever_stage_recorded_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 2D network that had no 3D counterpart when it was trained."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without sacct
    folder = study(tmp_path, 20.0)
    Markers(folder.root, "study").write("2d", Marker("done", {}, 1.0, 36.0, "", {"seconds": {}}))
    Submissions(folder.root).add("train", ["2d"], ["49488002"], 1, 1)
    rows = accounting_table(folder, graph_of(folder)).set_index("stage")
    assert rows.loc["train", "gpu_hours"] == pytest.approx(36 / 3600)


def test_what_was_counted_before_is_known_by_any_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without sacct
    folder = study(tmp_path, 20.0)
    folder.report.mkdir()
    (folder.report / "accounting.csv").write_text("stage,item,gpu_hours,source\nstudy,NA,1.5,sacct\n")
    Submissions(folder.root).add("study", ["NA"], ["49488002"], 1, 1)
    rows = accounting_table(folder, graph_of(folder)).set_index("item")
    assert rows.loc["NA", "gpu_hours"] == 1.5


EARLIER, LATER = (WITHOUT_GPUS[0].replace("1795769304", str(SUBMITTED + hours * 3600)) for hours in (-1, 1))


@pytest.mark.parametrize(
    ("lines", "starts"), [([EARLIER, *WITHOUT_GPUS[:2]], 2), ([EARLIER], 0), ([LATER], 0), ([EARLIER, LATER], 0)]
)
def test_hours_of_other_jobs_that_had_the_same_ids_are_not_counted(
    tmp_path: Path, sacct: Callable[[Sequence[str]], None], lines: Sequence[str], starts: int
) -> None:
    """Ids begin again at 1 after the largest, and where a cluster is set up anew."""
    sacct(lines)
    folder = study(tmp_path, 20.0)
    (row,) = accounting_table(folder, graph_of(folder)).to_dict("records")
    assert row["starts"] == starts
