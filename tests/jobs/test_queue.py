"""The whole graph in the queue: which job waits for which, without a Slurm."""

import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.progress import ignore_progress
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker, State
from jobs.engine.queue import live_submissions, submit_graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import ALL_ITEMS, Submissions
from jobs.stages.graph import graph_of, open_graph
from pipeline.settings.run import RunSettings
from slurm.profile import Profile
from tests.command_line import quarterdose_within
from tests.markers import mark_done
from tests.programs import write_program
from tests.scans import chest, write_nifti

PROFILE = Profile(executor="slurm", gpus_a_task=1, tasks_a_node=2)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose scans nobody has looked for: two trainings of a grid start from one of 2D."""
    data, study = {"sources": [{"kind": "nifti", "path": tmp_path / "scans"}]}, {"slices": [16], "ranks": [1, 2]}
    (tmp_path / "scans").mkdir()
    settings = {"name": "t", "runs": tmp_path, "data": {**data, "workers": 3}, "study": study}
    folder = RunFolder.of(RunSettings.model_validate(settings))
    folder.record()
    return folder


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands: sbatch keeps each script, numbered from 1 on, and takes no more than ``most``."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "most").write_text("99")
    number = f"$(($(ls {folder}/*.sh 2>/dev/null | wc -l) + 1))"
    refusal = f'[ $n -le $(cat {folder}/most) ] || {{ echo "job submit limit" >&2; exit 1; }}'
    scripts = {
        "sbatch": f'n={number}\n{refusal}\ncp "$1" {folder}/$n.sh; echo Submitted batch job $n',
        "scontrol": "echo 'ClusterName = dev'",
        "squeue": f"[ ! -f {folder}/queue ] || cat {folder}/queue",
        "scancel": f"echo $* >> {folder}/cancelled",
        "sacct": "",
        "srun": "",
    }
    for name, script in scripts.items():
        write_program(folder, name, script)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def submitted(programs: Path) -> dict[str, tuple[str, str, str]]:
    """Dependency, array and GPUs of each job, by its name."""
    jobs = dict[str, tuple[str, str, str]]()
    for path in sorted(programs.glob("*.sh"), key=lambda path: int(path.stem)):
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)", path.read_text(), re.MULTILINE))
        jobs[options["job-name"]] = tuple(options.get(name, "") for name in ("dependency", "array", "gpus-per-node"))
    return jobs


def test_each_job_waits_for_those_whose_items_it_reads(folder: RunFolder, programs: Path) -> None:
    """For their end where some may fail, else for their success."""
    submissions = submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    assert submitted(programs) == {
        "find": ("", "", ""),
        "prepare": ("afterok:1", "0-2%3", ""),
        "split": ("afterany:2", "", ""),
        "train-2d": ("afterok:3", "", "1"),
        "transfer": ("afterok:4", "", ""),
        "study-3d-s16-r1": ("afterany:3:5", "", "1"),
        "study-3d-s16-r2": ("afterany:3:5", "", "2"),
        "evaluate": ("afterany:3:4:6:7", "", "1"),
        "export": ("afterany:3:4:6:7:8", "", ""),
        "report": ("afterany:3:4:6:7:8", "", ""),
    }
    assert Submissions(folder.root).read() == submissions
    by_stage = {(x.stage, x.items[0]): (x.tasks, x.gpus) for x in submissions}
    assert by_stage["prepare", ALL_ITEMS] == (3, 0)
    assert by_stage["study", "3d-s16-r2"] == (2, 2)
    assert {x.cluster for x in submissions} == {"dev"}


def test_what_is_submitted_is_said_in_words(folder: RunFolder, programs: Path, tmp_path: Path) -> None:
    """Also scans that nobody has looked for yet."""
    write_program(programs, "sinfo", "echo 'gpu*|up|infinite|4|8|64000|gpu:4'")
    (tmp_path / "mine.yaml").write_text("executor: slurm\ntasks_a_node: 2\n")
    output = quarterdose_within(tmp_path, "run", "t/config.yaml", "--on", "mine.yaml").stdout
    assert [line for line in output.splitlines() if ": job " in line][:4] == [
        "find (find): job 1, 1 task",
        "prepare (all that will be found): job 2, 3 tasks",
        "split (split): job 3, 1 task",
        "train (2d): job 4, 1 task",
    ]


def test_what_slurm_refuses_half_way_is_taken_back(folder: RunFolder, programs: Path) -> None:
    (programs / "most").write_text("4")
    with pytest.raises(UserError, match=r"Slurm took no job of this profile: .*job submit limit"):
        submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    assert (programs / "cancelled").read_text() == "--quiet 1 2 3 4\n"
    assert not (folder.root / "queue.jsonl").exists()


def test_what_is_taken_back_leaves_the_records_of_earlier_submissions(folder: RunFolder, programs: Path) -> None:
    earlier = Submissions(folder.root).add("report", ["report"], ["7"], 1, 0)
    (programs / "most").write_text("4")
    with pytest.raises(UserError, match="job submit limit"):
        submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    assert Submissions(folder.root).read() == [earlier]


def mark_split_of_one_scan(graph: Graph, folder: RunFolder) -> None:
    write_nifti(folder.root.parent / "scans" / "a.nii.gz", chest(16))
    graph.stages["prepare"].find_items(ignore_progress)
    (scan,) = graph.stages["prepare"].items()
    for ref in (("prepare", scan), ("split", "split")):
        for path in graph.stages[ref[0]].outputs(ref[1]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        mark_done(graph, *ref, {"trained on": "x"})


@pytest.mark.parametrize("most", [99, 2])
def test_a_training_loses_its_former_end_once_all_jobs_are_in_the_queue(
    folder: RunFolder, programs: Path, most: int
) -> None:
    """One that waits for another keeps it, as its job decides whether it runs."""
    graph = graph_of(folder)
    mark_split_of_one_scan(graph, folder)
    trained = ("train", "2d"), ("study", "3d-s16-r1")
    for stage, item in trained:
        graph.stages[stage].markers.write(item, Marker("failed", {}, 1.0, 1.0, "it diverged", {}))
    (programs / "most").write_text(str(most))
    with nullcontext() if most > 10 else pytest.raises(UserError, match="job submit limit"):
        submit_graph(graph, folder, PROFILE, [], open_graph)
    assert next(iter(submitted(programs).items())) == ("train-2d", ("", "", "1"))
    assert [graph.marker(ref) is None for ref in trained] == [most > 10, False]


def test_before_the_search_all_former_ends_stay(folder: RunFolder) -> None:
    """Whether a training is to be done again is not known before the scans are: its job decides."""
    train, former = graph_of(folder).stages["train"], Marker("done", {}, 1.0, 1.0, "", {})
    train.markers.write("2d", former)
    submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    assert train.markers.read("2d") == former


def test_what_is_in_the_queue_is_submitted_again_only_behind_what_is_new(folder: RunFolder, programs: Path) -> None:
    """The judgement was cancelled, and goes behind the trainings that still wait; the report waited for the former."""
    submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    states = dict.fromkeys(range(1, 11), "PENDING") | {8: "CANCELLED"}
    lines = (f"{number}|{state}|None||0|0|1|N/A|N/A|\n" for number, state in states.items())
    (programs / "queue").write_text("".join(lines))
    live = live_submissions(folder)
    assert "evaluate" not in {submission.stage for submission in live}
    assert len(live) == 9
    again = submit_graph(graph_of(folder), folder, PROFILE, live, open_graph)
    assert [(x.stage, x.jobs) for x in again] == [("evaluate", ("11",)), ("export", ("12",)), ("report", ("13",))]
    jobs = submitted(programs)
    assert jobs["evaluate"] == ("afterany:3:4:6:7", "", "1")
    assert jobs["report"] == ("afterany:3:4:6:7:10:11", "", "")
    assert (programs / "cancelled").read_text() == "--quiet 10 9\n"
    remaining = [submission for submission in live if not {"9", "10"}.intersection(submission.jobs)]
    assert submit_graph(graph_of(folder), folder, PROFILE, [*remaining, *again], open_graph) == []


@pytest.mark.parametrize(("attempt", "stages"), [("7.0/x", ["train", "transfer"]), ("6.0/x", [])])
def test_what_a_job_at_its_end_has_done_with_other_settings_is_not_in_the_queue(
    folder: RunFolder, attempt: str, stages: list[str]
) -> None:
    """It needs seconds to end after its marker. One that did not write the marker is still to do the item."""
    graph = graph_of(folder)
    mark_split_of_one_scan(graph, folder)
    graph.stages["train"].markers.write("2d", Marker("done", {}, 1.0, 1.0, "", {}, attempt=attempt))
    others = ((x.name, x.items()) for x in graph.stages.values() if x.name not in ("prepare", "split", "train"))
    for number, (stage, items) in enumerate((("train", ["2d"]), *others), start=7):
        Submissions(folder.root).add(stage, items, [str(number)], 1, 1)
    again = submit_graph(graph, folder, PROFILE, Submissions(folder.root).read(), open_graph)
    assert [submission.stage for submission in again][:2] == stages


@pytest.mark.parametrize(("state", "attempt", "is_again"), [
    ("failed", "7_1.0/x", True), ("done", "7_1.0/x", True), ("failed", "6_1.0/x", False),
])  # fmt: skip
def test_what_an_array_failed_at_is_submitted_again_while_it_does_the_rest(
    folder: RunFolder, state: State, attempt: str, is_again: bool
) -> None:
    graph = graph_of(folder)
    mark_split_of_one_scan(graph, folder)
    graph.stages["evaluate"].markers.write("tv", Marker(state, {}, 1.0, 1.0, "no room", {}, attempt=attempt))
    array = Submissions(folder.root).add("evaluate", ["low-dose", "tv"], ["7"], 2, 1)
    again = submit_graph(graph, folder, PROFILE, [array], open_graph)
    (judged,) = [submission.items for submission in again if submission.stage == "evaluate"]
    assert ("low-dose" in judged, "tv" in judged) == (False, is_again)


def test_jobs_wait_for_the_newer_of_two_that_do_an_item(
    folder: RunFolder, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earlier one may fail, or is ended: what needed its success would never start."""
    submit_graph(graph_of(folder), folder, PROFILE, [], open_graph)
    live = [submission for submission in Submissions(folder.root).read() if submission.stage != "split"]
    (programs / "queue").write_text("4|PENDING|None||0|0|1|N/A|N/A|\n")
    write_program(programs, "scancel", "echo timed out >&2; exit 1")
    again = submit_graph(graph_of(folder), folder, PROFILE, live, open_graph)
    assert [x.jobs[0] for x in again] == [str(number) for number in range(11, 19)]
    jobs = submitted(programs)
    assert jobs["train-2d"][0] == "afterok:11,afterany:4"
    assert jobs["transfer"][0] == "afterok:12,afterany:5"
    assert "jobs 4, 5, 6, 7, 8, 9, 10 may start before what they read is made anew" in capsys.readouterr().out


def test_an_array_in_the_queue_with_other_items_too_stays(folder: RunFolder, programs: Path) -> None:
    graph = graph_of(folder)
    mark_split_of_one_scan(graph, folder)
    array = Submissions(folder.root).add("evaluate", ["low-dose", "3d-s16-r1"], ["7"], 2, 1)
    again = submit_graph(graph, folder, PROFILE, [array], open_graph)
    judged = next(submission.items for submission in again if submission.stage == "evaluate")
    assert ("low-dose" in judged, "3d-s16-r1" in judged) == (False, True)
    assert not (programs / "cancelled").exists()


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_training_in_the_queue_goes_once_more_behind_new_weights_to_start_with(
    folder: RunFolder, programs: Path, state: str
) -> None:
    """And behind its earlier job, which may be at it; else that is ended, as it would start from the former weights."""
    graph = graph_of(folder)
    mark_split_of_one_scan(graph, folder)
    training = Submissions(folder.root).add("study", ["3d-s16-r1"], ["7"], 1, 1)
    (programs / "queue").write_text(f"7|{state}|None||0|0|1|N/A|N/A|\n")
    again = submit_graph(graph, folder, PROFILE, [training], open_graph)
    assert [x.stage for x in again] == ["train", "transfer", "study", "study", "evaluate", "export", "report"]
    jobs = submitted(programs)
    assert (jobs["study-3d-s16-r1"][0], jobs["study-3d-s16-r2"][0]) == ("afterany:2:7", "afterany:2")
    assert jobs["evaluate"][0] == "afterany:1:3:4"
    assert (programs / "cancelled").exists() == (state == "PENDING")


def test_trainings_of_one_allocation_share_a_job_of_the_most_ranks(folder: RunFolder, programs: Path) -> None:
    study = folder.settings.study.model_copy(update={"allocation": "one"})
    shared = RunFolder(folder.root, folder.settings.model_copy(update={"study": study}))
    submissions = submit_graph(graph_of(shared), shared, PROFILE, [], open_graph)
    assert submitted(programs)["study"] == ("afterany:3:5", "", "2")
    assert submitted(programs)["evaluate"] == ("afterany:3:4:6", "", "1")
    (trainings,) = [submission for submission in submissions if submission.stage == "study"]
    assert sorted(trainings.items) == ["3d-s16-r1", "3d-s16-r2"]
    assert trainings.tasks == 2
