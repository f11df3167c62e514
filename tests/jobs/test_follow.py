"""States of items and logs of failed ones: by what became of the item last, not by words or times of files."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from data_prep.errors import UserError
from data_prep.files import locked
from data_prep.seal import sealed
from jobs.engine.item_states import ItemState, QueueState, item_states
from jobs.engine.logs import Logs
from jobs.engine.marker import Marker, State
from jobs.engine.queue import check_submission
from jobs.engine.run_folder import LOCK, RunFolder
from jobs.engine.submissions import Submission, Submissions
from jobs.engine.worker import PEER_LOST
from jobs.stages.accounting import accounting_table
from jobs.stages.evaluate import Evaluate
from jobs.stages.graph import graph_of, preparation_of
from pipeline.settings.run import RunSettings
from slurm.calls import STARTED
from slurm.profile import Profile, load_profile
from tests.command_line import quarterdose_within
from tests.programs import write_program

CELL = "3d-s16-r2"
FAILED = Marker("failed", {}, 1.0, 2.0, "slice 3 is broken", {}, attempt="/a")
DONE = replace(FAILED, state="done", reason="")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with two trainings and three networks to judge."""
    data, study = {"sources": [{"kind": "sample"}]}, {"slices": [16], "ranks": [1, 2]}
    settings = RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": data, "study": study})
    folder = RunFolder.of(settings)
    folder.record()
    (folder.root / "logs" / "slurm").mkdir(parents=True)
    return folder


def write_marker(folder: RunFolder, stage: str, item: str, marker: Marker) -> None:
    """Write a marker; of one that is done with the settings and inputs that there are now."""
    graph = graph_of(folder)
    done = graph.stages[stage]
    parts = graph.parts(done, item) if marker.state == "done" else marker.parts
    done.markers.write(item, replace(marker, parts=parts))


def write_split(folder: RunFolder) -> None:
    """Let all scans be prepared and split."""
    for scan in graph_of(folder).stages["prepare"].items():
        write_marker(folder, "prepare", scan, DONE)
    write_marker(folder, "split", "split", DONE)


def queued(state: str, note: str, *items: str, stage: str = "study") -> dict[tuple[str, str], QueueState]:
    submission = Submission(stage, items, ("12",), 1, 0, 0.0)
    return {(stage, item): QueueState(state, note, submission) for item in items}


def states(folder: RunFolder, queue: dict[tuple[str, str], QueueState] | None = None) -> dict[str, ItemState]:
    by_ref = item_states(graph_of(folder), queue or {})
    return {"/".join(ref): state for ref, state in by_ref.items() if ref[0] not in ("prepare", "split")}


def logs(folder: RunFolder, queue: dict[tuple[str, str], QueueState] | None = None) -> list[tuple[str, str]]:
    graph = graph_of(folder)
    failures = Logs(folder.root, graph, queue or {}).of_failed(item_states(graph, queue or {}))
    return [(path.name, text) for path, text in failures]


def write_log(folder: RunFolder, name: str, *lines: str) -> None:
    (folder.root / "logs" / name).write_text("".join(f"{line}\n" for line in lines))


def test_a_rank_that_only_lost_another_comes_last(folder: RunFolder) -> None:
    """Also one that heard nothing of the other any more, and tells of no connection."""
    write_marker(folder, "study", CELL, FAILED)
    lost = f"{PEER_LOST}\nrank 1 of 2 gave no sign of life for 15 s"
    for rank, text in enumerate((lost, "ValueError: slice 3 is broken")):
        write_log(folder, f"study.{CELL}.rank{rank}.log", f"study/{CELL}: started as rank {rank} of 2", text)
    assert [name for name, _ in logs(folder)] == [f"study.{CELL}.rank1.log", f"study.{CELL}.rank0.log"]


def test_a_finished_run_shows_no_old_failure(folder: RunFolder) -> None:
    """Neither of another start in the same file, nor of a log that was written later."""
    write_marker(folder, "train", "2d", DONE)
    start = "train/2d: started as rank 0 of 1"
    write_log(folder, "train.2d.rank0.log", start, "*** JOB 9 ON n CANCELLED AT 2026 ***", start, "train/2d: done")
    write_log(folder, "slurm/9_0_log.out", start, "srun: error: task 0: Killed")
    assert logs(folder) == []
    graph = graph_of(folder)
    newest = Logs(folder.root, graph, {}).current(item_states(graph, {}))
    assert newest == (folder.root / "logs/train.2d.rank0.log", f"{start}\ntrain/2d: done")
    shown = quarterdose_within(folder.root.parent, "logs", "t", "train").stdout
    assert shown.startswith("no item failed\n==> ")
    assert "CANCELLED" not in shown


def test_of_a_failed_item_only_its_newest_start_is_shown(folder: RunFolder) -> None:
    write_marker(folder, "evaluate", "2d", FAILED)
    first, second = (f"evaluate/{item}: started as rank 0 of 1" for item in ("2d", "tv"))
    write_log(
        folder, "evaluate.tv.log", first, "MemoryError", first, "No space left on device", second, "evaluate/tv: done"
    )
    assert logs(folder) == [("evaluate.tv.log", f"{first}\nNo space left on device\ncause: no space left on device")]


def test_failed_items_whose_logs_are_gone_are_not_said_to_have_succeeded(folder: RunFolder) -> None:
    write_marker(folder, "evaluate", "2d", FAILED)
    write_marker(folder, "train", "2d", DONE)
    write_log(folder, "train.2d.rank0.log", "train/2d: started as rank 0 of 1", "train/2d: done")
    shown = quarterdose_within(folder.root.parent, "logs", "t").stdout
    assert shown.startswith("no log of a failed item is there: `quarterdose status` says why\n==> ")


def test_restarts_that_are_used_up_are_the_cause(folder: RunFolder) -> None:
    write_marker(folder, "study", CELL, replace(FAILED, attempt="12.2/a"))
    words = "the restarts of this job (2 of 2) are used up, and it was stopped because its time limit came near"
    start = f"study/{CELL}: started as rank 0 of 2"
    write_log(folder, "slurm/12_0_log.out", start, "old", start, words, "*** STEP 12.0 ON n CANCELLED AT 2026 ***")
    ((name, text),) = logs(folder, queued("failed", "", CELL))
    assert name == "12_0_log.out"
    assert "old" not in text
    assert text.endswith("cause: restarts used up: 2 of 2")


def test_of_a_job_that_came_to_no_item_the_newest_start_is_shown(folder: RunFolder) -> None:
    """It was put back in the queue after its first start."""
    write_log(
        folder, "slurm/12_0_log.out", f"{STARTED} 12.0", "*** JOB 12 CANCELLED AT 1 ***", f"{STARTED} 12.1", "No!"
    )
    queue = queued("failed", "job 12 failed with exit code 1", CELL)
    assert logs(folder, queue) == [("12_0_log.out", f"{STARTED} 12.1\nNo!")]


def test_items_that_wait_are_not_running(folder: RunFolder) -> None:
    """For their turn in a job or an array, and for the items that they need."""
    write_split(folder)
    write_marker(folder, "train", "2d", DONE)
    write_marker(folder, "transfer", "3d-zero", DONE)
    write_marker(folder, "evaluate", "tv", FAILED)
    items = ("2d", "tv", "low-dose")
    markers = graph_of(folder).stages["evaluate"].markers
    for item in ("2d", "tv"):
        markers.write_progress(item, 3, 10, "slices")
    with locked(markers.lock("2d")):
        by_item = states(folder, queued("running", "on node1", *items, stage="evaluate"))
    assert by_item["evaluate/2d"] == ItemState("running", "3/10 slices on node1")
    assert by_item["evaluate/tv"] == ItemState("waiting", "for its turn in job 12; failed before: slice 3 is broken")
    assert by_item["evaluate/low-dose"] == ItemState("waiting", "for its turn in job 12")
    assert by_item[f"evaluate/{CELL}"] == ItemState("waiting", f"for study/{CELL}")
    assert by_item[f"study/{CELL}"] == ItemState("waiting", "for the next run")
    assert states(folder)["evaluate/2d"] == ItemState("stopped", "at 3/10 slices")
    with locked(folder.root / LOCK):
        assert states(folder)[f"study/{CELL}"].note == "for its turn"


def test_what_an_array_did_is_not_said_to_have_failed_with_another_of_its_items(folder: RunFolder) -> None:
    write_split(folder)
    write_marker(folder, "evaluate", "tv", replace(DONE, attempt="12_0.0/a"))
    write_marker(folder, "evaluate", "2d", replace(FAILED, attempt="12_1.0/a"))
    shown = states(folder, queued("failed", "job 12_1 failed with exit code 1", "tv", "2d", stage="evaluate"))
    assert shown["evaluate/tv"] == ItemState("done", "", 2.0)
    assert shown["evaluate/2d"].note == "slice 3 is broken; job 12_1 failed with exit code 1"
    put_back = states(folder, queued("done", "requeued 1 x", "tv", stage="evaluate"))
    assert put_back["evaluate/tv"].note == "requeued 1 x"


def test_what_jobs_recorded_counts_until_it_is_tried_again(folder: RunFolder) -> None:
    write_marker(folder, "evaluate", "tv", replace(FAILED, attempt="12_3.0/a"))
    live = queued("running", "on node1", "tv", stage="evaluate")
    assert states(folder, live)["evaluate/tv"].state == "failed"
    write_marker(folder, "study", CELL, replace(FAILED, attempt="12.0/a"))
    assert states(folder, queued("waiting", "in the queue", CELL))[f"study/{CELL}"].state == "waiting"
    assert states(folder, queued("running", "on node1", CELL))[f"study/{CELL}"] == ItemState(
        "running", "starting on node1"
    )


def test_what_earlier_jobs_did_stays_done_while_an_array_does_the_rest(folder: RunFolder) -> None:
    write_split(folder)
    write_marker(folder, "evaluate", "tv", replace(DONE, attempt="11_0.0/a"))
    write_marker(folder, "evaluate", "2d", replace(FAILED, attempt="11_1.0/a"))
    shown = states(folder, queued("running", "on node1", "tv", "2d", "low-dose", stage="evaluate"))
    assert shown["evaluate/tv"] == ItemState("done", "", 2.0)
    assert shown["evaluate/2d"] == ItemState("waiting", "for its turn in job 12; failed before: slice 3 is broken")
    assert shown["evaluate/low-dose"] == ItemState("waiting", "for its turn in job 12")


def test_markers_count_before_jobs_that_ended(folder: RunFolder) -> None:
    """A training that was done stays done, with what its job says; without a marker nothing was done."""
    write_split(folder)
    write_marker(folder, "train", "2d", DONE)
    ended, lost = queued("done", "", "2d", stage="train"), queued("failed", "job 12 lost its node", "2d", stage="train")
    assert states(folder, ended)["train/2d"] == ItemState("done", "", 2.0)
    assert states(folder, lost)["train/2d"] == ItemState("done", "job 12 lost its node", 2.0)
    graph_of(folder).stages["train"].markers.remove("2d")
    assert states(folder, ended)["train/2d"] == ItemState("waiting", "for the next run")
    assert states(folder, lost)["train/2d"] == ItemState("failed", "job 12 lost its node")


def test_what_waits_in_the_queue_is_told_from_what_waits_within_its_job(folder: RunFolder) -> None:
    study = folder.settings.study.model_copy(update={"allocation": "one"})
    shared = RunFolder(folder.root, folder.settings.model_copy(update={"study": study}))
    array = queued("waiting", "in the queue for free nodes", "tv", stage="evaluate")
    assert states(folder, array)["evaluate/tv"] == ItemState("waiting", "in the queue for free nodes")
    write_marker(shared, "study", CELL, replace(FAILED, attempt="12.0/a"))
    assert states(shared, queued("running", "on node1", CELL))[f"study/{CELL}"].state == "failed"
    write_marker(shared, "study", CELL, replace(FAILED, attempt="11.0/a"))
    assert states(shared, queued("running", "on node1", CELL))[f"study/{CELL}"] == ItemState(
        "waiting", "for its turn in job 12; failed before: slice 3 is broken"
    )


def test_the_split_waits_for_scans_but_not_for_failed_ones(folder: RunFolder) -> None:
    (scan,) = graph_of(folder).stages["prepare"].items()
    assert item_states(graph_of(folder), {})["split", "split"].note == f"for prepare/{scan}"
    write_marker(folder, "prepare", scan, FAILED)
    shown = item_states(graph_of(folder), {})
    assert shown["split", "split"].note == "for the next run"
    assert shown["train", "2d"].note == "for split/split"


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_what_needs_an_item_that_did_not_succeed_waits_for_it(folder: RunFolder, state: State) -> None:
    write_split(folder)
    write_marker(folder, "train", "2d", replace(FAILED, state=state))
    assert states(folder)["transfer/3d-zero"] == ItemState("waiting", "for train/2d")


def test_the_split_waits_for_a_scan_that_was_stopped(folder: RunFolder) -> None:
    prepare = graph_of(folder).stages["prepare"]
    (scan,) = prepare.items()
    prepare.markers.folder.mkdir(parents=True)
    prepare.markers.write_progress(scan, 1, 2, "slices")
    shown = item_states(graph_of(folder), {})
    assert (shown["prepare", scan].state, shown["split", "split"].note) == ("stopped", f"for prepare/{scan}")


def with_crop(folder: RunFolder, crop: int) -> RunFolder:
    evaluation = folder.settings.evaluate.model_copy(update={"crop": crop})
    return RunFolder(folder.root, folder.settings.model_copy(update={"evaluate": evaluation}))


def test_what_was_done_with_other_settings_waits_to_be_done_again(folder: RunFolder) -> None:
    """As while a run with new settings is at work, or where it was ended; and so does what is made of it."""
    write_split(folder)
    for ref in (("train", "2d"), ("evaluate", "low-dose"), ("evaluate", "2d"), ("report", "report")):
        write_marker(folder, *ref, DONE)
    changed, former = with_crop(folder, 192), folder.settings.evaluate.crop
    assert states(folder)["evaluate/2d"] == ItemState("done", "", 2.0)
    words = f"crop changed from {former} to 192"
    assert states(changed)["evaluate/2d"] == ItemState("waiting", f"for the next run: {words}")
    assert states(changed)["train/2d"].state == "done"
    assert states(changed)["report/report"] == ItemState("waiting", f"for study/{CELL.replace('r2', 'r1')}")
    ended = queued("failed", "job 12_0 failed with exit code 1", "low-dose", "2d", stage="evaluate")
    assert states(changed, ended)["evaluate/2d"] == states(changed)["evaluate/2d"]
    live = queued("running", "on node1", "low-dose", "2d", stage="evaluate")
    assert states(folder, live)["evaluate/2d"].state == "done"
    assert states(changed, live)["evaluate/2d"] == ItemState("waiting", f"for its turn in job 12; {words}")
    markers = graph_of(folder).stages["train"].markers
    markers.remove("2d")
    with locked(markers.lock("2d")):
        assert states(folder)["evaluate/2d"] == ItemState("waiting", "for train/2d")
        again = queued("waiting", "in the queue for the jobs that it needs", "2d", stage="train")
        assert states(folder, again)["train/2d"] == ItemState("running", "")
        assert states(folder)["evaluate/low-dose"].state == "done"


def test_after_an_update_what_was_done_stays_done_until_it_is_tried_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(folder)
    write_marker(folder, "evaluate", "tv", DONE)
    monkeypatch.setattr(Evaluate, "version", Evaluate.version + 1)
    assert states(folder)["evaluate/tv"].state == "done"


@pytest.mark.parametrize("name", ["judge", "2d", "train/2d", ""])
def test_logs_of_no_stage_are_refused(folder: RunFolder, name: str) -> None:
    refused = quarterdose_within(folder.root.parent, "logs", "t", name)
    assert (refused.returncode, refused.stderr) == (
        2,
        f"quarterdose: {name!r} is no stage of this run: take one of prepare, split, train, transfer, study, evaluate, "
        "export, report\n",
    )


def slurm_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands in the place of Slurm's that note their call and know no job; return the notes."""
    for name in ("squeue", "sacct"):
        write_program(folder, name, f"echo {name} >> {folder}/calls")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "calls"


@pytest.mark.parametrize("command", ["status", "logs", "cancel"])
def test_slurm_is_asked_once_for_thousands_of_jobs(
    folder: RunFolder, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = slurm_commands(tmp_path, monkeypatch)
    record = {"stage": "study", "items": [CELL], "tasks": 1, "gpus": 0, "at": 0.0}
    lines = (json.dumps(sealed({**record, "jobs": [str(45_000_000 + number)]})) for number in range(1219))
    (folder.root / "queue.jsonl").write_text("".join(f"{line}\n" for line in lines))
    completed: CompletedProcess[str] = quarterdose_within(folder.root.parent, command, "t")
    assert completed.returncode == 0, completed.stderr
    assert calls.read_text().split() == ["squeue", "sacct"]


def test_the_newest_jobs_of_items_are_shown_and_those_in_the_queue_cancelled(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_commands(tmp_path, monkeypatch)
    lines = (
        "11|FAILED|None|node9|0|256|1|2|3|", "12|RUNNING|None|node2|1|0|1|2|9|", "13_0|COMPLETED|None|node1|0|0|1|2|3|",
        "13_1|PENDING|Resources||0|0|1|N/A|N/A|", "14|PENDING|Dependency||0|0|1|N/A|N/A|",
        "15|FAILED|None|node1|2|256|1|2|3|",
    )  # fmt: skip
    write_program(tmp_path, "squeue", "\n".join(f"echo '{line}'" for line in lines))
    write_program(tmp_path, "scancel", f"echo $* > {tmp_path}/cancelled")
    jobs = (("study", CELL, "11"), ("study", CELL, "12"), ("evaluate", "tv", "13"), ("report", "report", "14"),
            ("export", "model", "15"))  # fmt: skip
    for stage, item, number in jobs:
        Submissions(folder.root).add(stage, [item], [number], 1, 0)
    starts = (f"{STARTED} 12.0", "srun: error: node1: task 0: Killed", f"{STARTED} 12.1")
    write_log(folder, "slurm/12_0_log.out", *starts)
    write_log(folder, "slurm/15_0_log.out", f"{STARTED} 15.2", "srun: error: node1: task 0: Out Of Memory")
    shown = quarterdose_within(folder.root.parent, "status", "t").stdout
    rows = {(row[0], row[1]): " ".join(row[2:]) for row in map(str.split, shown.splitlines())}
    assert {stage: rows[stage, item] for stage, item, _ in jobs} == {
        "study": "running starting on node2, requeued 1 x, last: killed (SIGKILL), often for want of memory",
        "evaluate": "waiting in the queue for free nodes",
        "report": "waiting in the queue for the jobs that it needs",
        "export": "failed job 15 failed: out of memory, requeued 2 x",
    }  # fmt: skip
    assert quarterdose_within(folder.root.parent, "cancel", "t").stdout == "3 jobs cancelled\n"
    assert (tmp_path / "cancelled").read_text() == "--quiet 12 13_1 14\n"


def test_nothing_is_cancelled_while_a_submission_is_at_work(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would put the rest of its jobs in the queue."""
    calls = slurm_commands(tmp_path, monkeypatch)
    Submissions(folder.root).add("study", [CELL], ["12"], 1, 0)
    with locked(folder.root / LOCK):
        refused = quarterdose_within(folder.root.parent, "cancel", "t")
    words = f"quarterdose: another `quarterdose` is at work in {folder.root}\n"
    assert (refused.returncode, refused.stderr) == (2, words)
    assert not calls.exists()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["status", "t"], 0, ": what is known is what the run folder holds"),
        (["cancel", "t"], 1, ""),
        (["run", "t/config.yaml"], 2, "whether they have ended is not known, as "),
        (["run", "t/config.yaml", "--on", "a100"], 2, "whether they have ended is not known, as "),
    ],
)
def test_jobs_of_another_cluster_are_not_those_of_the_same_numbers_here(
    folder: RunFolder, command: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = slurm_commands(tmp_path, monkeypatch)
    write_program(tmp_path, "scontrol", "echo ClusterName = barnard")
    Submissions(folder.root).add("study", [CELL], ["12"], 1, 0, "capella")
    completed = quarterdose_within(folder.root.parent, *command)
    assert completed.returncode == code
    shown = completed.stdout + completed.stderr
    assert "the jobs were submitted on cluster capella, and this machine reaches barnard alone" in shown
    assert words in shown
    assert not calls.exists()
    assert accounting_table(folder, graph_of(folder))["source"].tolist() == ["markers"]


def test_jobs_of_a_cluster_that_was_set_up_anew_are_not_ended(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids begin again at 1."""
    slurm_commands(tmp_path, monkeypatch)
    write_program(tmp_path, "squeue", "echo '12|RUNNING|None|node1|0|0|1795769304|1795769305|1795779304|'")
    write_program(tmp_path, "scancel", f"echo $* > {tmp_path}/cancelled")
    record = {"stage": "study", "items": [CELL], "jobs": ["12"], "tasks": 1, "gpus": 0, "at": 1735769304.0}
    (folder.root / "queue.jsonl").write_text(json.dumps(sealed(record)) + "\n")
    assert quarterdose_within(folder.root.parent, "cancel", "t").stdout == "0 jobs cancelled\n"
    assert not (tmp_path / "cancelled").exists()


def test_the_jobs_of_a_run_folder_that_was_copied_are_the_originals(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, copy = slurm_commands(tmp_path, monkeypatch), tmp_path / "copy"
    Submissions(folder.root).add("study", [CELL], ["12"], 1, 0)
    shutil.copytree(folder.root, copy)
    for command in ("status", "cancel", "logs"):
        completed = quarterdose_within(tmp_path, command, "copy")
        assert completed.returncode == 0, completed.stderr
    assert not calls.exists()
    shutil.rmtree(folder.root)
    renamed = Submissions(copy).of_this_folder()
    assert [submission.jobs for submission in renamed] == [("12",)]
    folder.root.symlink_to(copy)
    assert Submissions(copy).of_this_folder() == renamed  # and linked from where it was


def test_nothing_is_submitted_while_a_training_runs_that_the_settings_no_longer_name(folder: RunFolder) -> None:
    Submissions(folder.root).add("study", ["unet"], ["12"], 1, 0)
    graph, words = graph_of(folder), "study/unet runs in job 12 under other settings: wait for its end, or end it first"
    with locked(graph.stages["study"].markers.lock("unet")), pytest.raises(UserError, match=words):
        check_submission(graph, folder, load_profile("a100"), Submissions(folder.root).of_this_folder())


def test_a_preparation_is_not_refused_for_what_ranks_would_ask_for(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, "sinfo", "echo 'cpu*|up|infinite|4|8|64000|(null)'")
    write_program(tmp_path, "scontrol", "echo ClusterName = dev")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    profile = Profile(executor="slurm", gpus_a_task=1, cpus_a_task=16)
    check_submission(preparation_of(folder), folder, profile, [])
    with pytest.raises(UserError, match="asked for: 1 GPU a node; those of cpu have 0"):
        check_submission(graph_of(folder), folder, profile, [])


def test_without_slurm_the_run_folder_tells(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Submissions(folder.root).add("study", [CELL], ["12"], 1, 0)
    write_marker(folder, "study", CELL, replace(FAILED, attempt="12.0/a"))
    write_log(folder, "slurm/12_0_log.out", f"study/{CELL}: started as rank 0 of 2", "ValueError: slice 3 is broken")
    monkeypatch.setenv("PATH", "")
    shown = quarterdose_within(folder.root.parent, "logs", "t").stdout
    assert "is not installed here: what is known is what the run folder holds\n" in shown
    assert "ValueError: slice 3 is broken" in shown


def test_following_a_run_imports_no_library_for_images_or_training(folder: RunFolder) -> None:
    heavy = (
        "torch",
        "numpy",
        "rich.progress",
        "pandas",
        "scipy",
        "nibabel",
        "pydicom",
        "zarr",
        "submitit",
        "matplotlib",
    )
    code = f"""
import sys
from typer.testing import CliRunner
from jobs.commands.cli import app
for command in ("status", "logs", "cancel"):
    assert CliRunner().invoke(app, [command, {str(folder.root)!r}], catch_exceptions=False).exit_code == 0
print(*(name for name in {heavy} if name in sys.modules))
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "\n"
