"""What a job of Slurm does before its work: it waits until it sees what the jobs before it wrote."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import UserError
from jobs.engine import in_job
from jobs.engine.graph import Graph
from jobs.engine.marker import STOPPED, Marker
from jobs.engine.outputs import digest_outputs
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import ALL_ITEMS, Submissions
from jobs.engine.worker import PEER_LOST
from jobs.stages.graph import graph_of, open_graph
from jobs.stages.prepare import Prepare
from pipeline.settings.run import RunSettings
from pipeline.training.stopping import SIGNALS, Stopped
from pipeline.training.world import World
from slurm.calls import STARTED
from slurm.causes import find_cause
from slurm.job import SIGNAL_SECONDS, USED_UP
from tests.markers import mark_done, mark_split
from tests.programs import write_program
from tests.scans import chest, write_nifti


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    data = {"sources": [{"kind": "nifti", "path": tmp_path}]}
    settings = RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": data, "study": {"slices": [16]}})
    folder = RunFolder.of(settings)
    folder.record()
    return graph_of(folder)


@pytest.mark.slow
def test_a_marker_that_a_shared_file_system_shows_late_is_waited_for(graph: Graph) -> None:
    """NFS may show a folder as it was for up to a minute: without the marker, or with an earlier one."""
    split, events = graph.stages["split"], list[str]()
    paths = split.outputs("split")
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_text("earlier")
    earlier = Marker("done", {}, 1.0, 1.0, "", {}, digest_outputs(split, "split"))
    for path in paths:
        path.write_text("new")
    latest = replace(earlier, outputs=digest_outputs(split, "split"))

    def write(marker: Marker) -> None:
        events.append("seen")
        split.markers.write("split", marker)

    for seconds, marker in ((0.7, earlier), (1.4, latest)):
        threading.Timer(seconds, write, (marker,)).start()
    in_job._await_inputs(graph, graph.stages["train"], ["2d"])
    assert events == ["seen", "seen"]
    assert graph.marker(("split", "split")) == latest


def test_an_input_that_was_changed_since_is_named(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 0.0)
    split = graph.stages["split"]
    for path in split.outputs("split"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    mark_split(split)
    split.outputs("split")[1].write_text("otherwise")
    with pytest.raises(RuntimeError, match=r"data/split\.json was cut or changed after it was written: run the same"):
        in_job._await_inputs(graph, graph.stages["train"], ["2d"])


def test_a_marker_that_never_comes_is_the_mark_of_a_job_that_died(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 1.0)
    with pytest.raises(RuntimeError, match="1 of 1 items of split did not succeed"):
        in_job._await_inputs(graph, graph.stages["train"], ["2d"])
    marker = graph.marker(("split", "split"))
    assert marker is not None
    assert marker.state == "failed"
    assert marker.reason == "its job ended before it was done; see the logs"


@pytest.mark.usefixtures("_own_handlers")
def test_a_job_behind_one_that_failed_ends_with_a_sentence(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 0.0)
    split = graph.stages["split"]
    split.markers.write("split", Marker("failed", {}, 1.0, 1.0, "too few scans", {}))
    with pytest.raises(SystemExit) as end_of_job:
        in_job.run_share(open_graph, split.folder.root, "evaluate", 2)
    words = "1 of 1 items of split did not succeed, which is too many to go on"
    assert end_of_job.value.code == f"this process failed: {words}"


@pytest.mark.parametrize(
    ("state", "log", "reason"),
    [
        ("PENDING", "", None),
        ("FAILED", "", "job 12 failed with exit code 1"),
        ("FAILED", "srun: error: node1: task 0: Out Of Memory", "job 12 failed: out of memory"),
    ],
)
def test_an_input_whose_job_is_in_the_queue_has_not_died(
    graph: Graph, state: str, log: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training was added, submitted and judged while another one of the run still waits."""
    (tmp_path / "t" / "logs" / "slurm").mkdir(parents=True)
    (tmp_path / "t" / "logs" / "slurm" / "12_0_log.out").write_text(f"{STARTED} 12.0\n{log}\n")
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 0.0)
    write_program(tmp_path, "squeue", f"echo '12|{state}|None||0|256|1|N/A|N/A|'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Submissions(tmp_path / "t").add("split", ["split"], ["12"], 1, 0)
    with pytest.raises(RuntimeError, match="1 of 1 items of split did not succeed"):
        in_job._await_inputs(graph, graph.stages["train"], ["2d"])
    marker = graph.marker(("split", "split"))
    assert (marker.reason if marker else None) == (f"{reason} before it was done; see the logs" if reason else None)


def test_scans_that_a_search_found_died_as_the_tasks_of_their_array(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was submitted before they were known."""
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 0.0)
    write_nifti(tmp_path / "a.nii.gz", chest(16))
    tasks = ("12_0|COMPLETED", "12_1|CANCELLED", "12_2|TIMEOUT")
    write_program(tmp_path, "squeue", "\n".join(f"echo '{task}|None|node1|0|0|1|2|3|'" for task in tasks))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Submissions(tmp_path / "t").add("prepare", [ALL_ITEMS], ["12"], 3, 0)
    (scan,) = graph.stages["prepare"].items()
    in_job._await_inputs(graph, graph.stages["split"], ["split"])
    marker = graph.marker(("prepare", scan))
    assert marker is not None
    assert marker.reason == "job 12_1 was cancelled before it was done; see the logs"


def test_slurm_is_asked_once_what_became_of_all_inputs(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 0.0)
    states = 'for job in 12 13; do echo "$job|CANCELLED|None||0|$job|1|N/A|N/A|"; done'
    write_program(tmp_path, "squeue", f"echo asked >> {tmp_path}/calls\n{states}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    items, split = graph.stages["study"].items(), graph.stages["split"]
    for number, item in enumerate(items[:2], start=12):
        Submissions(tmp_path / "t").add("study", [item], [str(number)], 1, 0)
    split.markers.write("split", Marker("done", {}, 1.0, 1.0, "", {}))
    with suppress(RuntimeError):
        in_job._await_inputs(graph, graph.stages["evaluate"], graph.stages["evaluate"].items())
    assert (tmp_path / "calls").read_text().split() == ["asked"]
    for number, item in enumerate(items[:2], start=12):
        marker = graph.marker(("study", item))
        assert marker is not None
        assert marker.reason.startswith(f"job {number} was cancelled")


def test_a_judgement_whose_training_failed_is_not_waited_for(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 10.0)
    evaluate, cells = graph.stages["evaluate"], {"train": ["2d"], "study": graph.stages["study"].items()}
    trained = {cell for items in cells.values() for cell in items}
    split = graph.stages["split"]
    for path in split.outputs("split"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    mark_split(split)
    failed = {**cells, "evaluate": [item for item in evaluate.items() if item not in trained]}
    for stage, item in ((stage, item) for stage, items in failed.items() for item in items):
        graph.stages[stage].markers.write(item, Marker("failed", {}, 1.0, 1.0, "it diverged", {}))
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="items of evaluate did not succeed"):
        in_job._await_inputs(graph, graph.stages["export"], graph.stages["export"].items())
    assert time.monotonic() - start < 5
    assert evaluate.markers.read("2d") is None


FAILED = Marker("failed", {}, 1.0, 1.0, "slice 3 is broken", {})


def as_rank(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Be the only rank of a job whose inputs are done."""
    for name, value in {"JOB_ID": "12", "PROCID": "0", "NTASKS": "1", "LOCALID": "0", **environment}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(in_job, "_await_inputs", lambda *_arguments: None)
    monkeypatch.setattr(Graph, "blocked_by", lambda *_arguments: None)


@pytest.mark.usefixtures("_own_handlers")
def test_a_training_that_starts_anew_removes_no_file_of_others(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch)
    train = graph.stages["train"]
    folder = train.folder.cell("2d")
    folder.mkdir(parents=True)
    for name in ("result.json", "notes.txt"):
        (folder / name).write_text("{}")
    train.markers.write_start("2d", "of other settings", "")
    train.markers.write("2d", Marker("done", {}, 1.0, 1.0, "", {}))
    with pytest.raises(
        UserError, match=r"2d/notes\.txt was not written by quarterdose, and nothing of yours is replaced"
    ):
        in_job.run_rank(open_graph, train.folder.root, "train", "2d", 2)
    assert (folder / "notes.txt").exists()
    marker = train.markers.read("2d")
    assert marker is not None
    assert marker.state == "refused"
    assert "notes.txt was not written by quarterdose" in marker.reason


@pytest.mark.usefixtures("_own_handlers")
def test_a_job_leaves_alone_what_is_done_by_now_and_ends_badly_where_it_is_blocked(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch)
    train, tried = graph.stages["train"], list[object]()
    monkeypatch.setattr(in_job, "work_together", lambda *arguments: tried.append(arguments))
    for path in train.outputs("2d"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    mark_done(graph, "train", "2d", {"checkpoint": "x"})
    in_job.run_rank(open_graph, train.folder.root, "train", "2d", 2)
    monkeypatch.setattr(Graph, "blocked_by", lambda *_arguments: ("split", "split"))
    with pytest.raises(SystemExit) as end_of_job:
        in_job.run_rank(open_graph, train.folder.root, "train", "2d", 2)
    assert end_of_job.value.code == "train/2d: blocked: split/split did not succeed"
    assert tried == []


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_alone_removes_the_former_end_before_any_rank_may_fail(
    graph: Graph, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, PROCID=str(rank), NTASKS="2")
    markers, seen = graph.stages["train"].markers, list[Marker | None]()
    former = Marker("failed", {}, 1.0, 1.0, "it diverged", {})
    markers.write("2d", former)
    monkeypatch.setattr(in_job, "rendezvous_address", lambda: "tcp://node1:12000")
    monkeypatch.setattr(in_job, "work_together", lambda *_arguments: seen.append(markers.read("2d")))
    in_job.run_rank(open_graph, graph.stages["train"].folder.root, "train", "2d", 2)
    assert seen == [former if rank else None]


@pytest.mark.usefixtures("_own_handlers")
def test_an_item_that_ends_without_a_word_is_marked_over_its_former_end(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job would wait for it until its time limit."""
    as_rank(monkeypatch)
    train = graph.stages["train"]
    train.markers.write("2d", Marker("failed", {}, 1.0, 1.0, "", {}, attempt="11.0/x"))
    monkeypatch.setattr(in_job, "_run_in_process", lambda *_arguments: None)
    in_job.run_items(open_graph, train.folder.root, "train", ["2d"], 2)
    marker = train.markers.read("2d")
    assert marker is not None
    assert marker.reason == "its job ended before it was done; see the logs"


@pytest.mark.usefixtures("_own_handlers")
def test_an_item_of_a_shared_job_that_an_earlier_job_has_done_stays_done(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch)
    train, done = graph.stages["train"], Marker("done", {}, 1.0, 1.0, "", {}, attempt="11.0/x")
    train.markers.write("2d", done)
    monkeypatch.setattr(in_job, "_run_in_process", lambda *_arguments: None)
    in_job.run_items(open_graph, train.folder.root, "train", ["2d"], 2)
    assert train.markers.read("2d") == done


@pytest.mark.usefixtures("_own_handlers")
def test_a_waiting_job_whose_training_the_settings_no_longer_name_ends_well(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs behind it, such as the report, are those of the settings that there are now."""
    as_rank(monkeypatch)
    root = graph.stages["train"].folder.root
    in_job.run_rank(open_graph, root, "train", "unet", 2)
    in_job.run_items(open_graph, root, "train", ["unet"], 2)
    words = "train/unet: left out, as the settings were changed and no longer name it\n"
    assert capsys.readouterr().out.count(words) == 2
    assert graph.marker(("train", "unet")) is None


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """Jobs do not give signals back their former handlers."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def be_last_start(folder: Path, monkeypatch: pytest.MonkeyPatch, preempted: str, end: int) -> None:
    """Be a job whose restarts are used up, with a time limit in so many seconds."""
    write_program(folder, "scontrol", f"echo JobId=12 EndTime={int(time.time()) + end} PreemptTime={preempted}")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    as_rank(monkeypatch, RESTART_COUNT="2")


@pytest.mark.usefixtures("_own_handlers")
def test_a_signal_that_comes_within_what_catches_all_errors_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As imports of libraries do, and readers of files, which take any error for a broken file."""
    be_last_start(tmp_path, monkeypatch, "None", 60)
    with pytest.raises(SystemExit) as end_of_job, in_job._stoppable(World(), 2), suppress(Exception):
        signal.raise_signal(signal.SIGUSR2)
    assert end_of_job.value.code == USED_UP


@pytest.mark.usefixtures("_own_handlers")
def test_a_search_for_scans_that_meets_its_time_limit_goes_back_to_the_queue(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_last_start(tmp_path, monkeypatch, "None", 60)
    monkeypatch.setattr(Prepare, "find_items", lambda *_arguments: signal.raise_signal(signal.SIGUSR2))
    with pytest.raises(SystemExit) as end_of_job:
        in_job.find_items(open_graph, graph.stages["prepare"].folder.root, 2)
    assert end_of_job.value.code == USED_UP


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize(("attempt", "code"), [("12.1/x", PEER_LOST), ("12.0/x", USED_UP)])
def test_a_rank_that_is_ended_as_another_failed_by_itself_ends_too(
    graph: Graph, attempt: str, code: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it waited for the end of the job, srun would kill it, and a killed process takes its job back to the queue."""
    be_last_start(tmp_path, monkeypatch, "None", 60)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train = graph.stages["train"]

    def fail_and_stop(*_arguments: object) -> None:
        train.markers.write("2d", replace(FAILED, attempt=attempt))
        raise Stopped("this job was asked to stop by SIGUSR2", signal.SIGUSR2)

    monkeypatch.setattr(in_job, "work_together", fail_and_stop)
    with pytest.raises(SystemExit) as end_of_job:
        in_job.run_rank(open_graph, train.folder.root, "train", "2d", 1)
    assert end_of_job.value.code == code


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize("leads", [True, False])
def test_a_job_that_goes_back_to_the_queue_says_why(
    leads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; and ``status`` reads it."""
    back = list[bool]()
    be_last_start(tmp_path, monkeypatch, "None", 60)
    monkeypatch.setattr(in_job, "requeue", lambda *, leads: back.append(leads))
    with in_job._stoppable(World(rank=0 if leads else 1, size=2), 3):
        signal.raise_signal(signal.SIGUSR2)
    assert back == [leads]
    causes = {True: "stopped because its time limit came near", False: None}
    assert find_cause(capsys.readouterr().out) == causes[leads]


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize(
    ("preempted", "signal_seconds", "end", "cause"),
    [
        ("None", 90, 60, "its time limit came near"),
        ("None", 1800, 1850, "its time limit came near"),
        ("1795790000", 90, 3600, "its nodes were taken for another job"),
        ("None", 90, 1850, "of a signal"),
    ],
)
def test_restarts_that_are_used_up_are_said_with_their_cause(
    preempted: str, signal_seconds: int, end: int, cause: str, graph: Graph, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In the marker of the training, in the log, and by the job's exit code."""
    be_last_start(tmp_path, monkeypatch, preempted, end)
    monkeypatch.setenv(SIGNAL_SECONDS, str(signal_seconds))
    markers = graph.stages["train"].markers

    def stop(*_arguments: object) -> None:
        markers.write("2d", Marker("failed", {}, 0.0, 1.0, "cell 2d was asked to stop", STOPPED))
        raise Stopped("cell 2d was asked to stop", signal.SIGUSR2, 7)

    monkeypatch.setattr(in_job, "work_together", stop)
    with pytest.raises(SystemExit) as end_of_job:
        in_job.run_rank(open_graph, graph.stages["train"].folder.root, "train", "2d", 2)
    assert end_of_job.value.code == USED_UP
    marker = markers.read("2d")
    assert marker is not None
    assert marker.reason == (
        f"the restarts of this job (2 of 2) are used up, and it was stopped because {cause}: raise `restarts` or "
        "`minutes` in the profile and submit again; it goes on from step 7"
    )
