"""Searches in real processes, whole and killed."""

import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Collection
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.errors import MachineError
from data_prep.progress import ignore_progress
from data_prep.settings_file import load_settings
from data_prep.split import Split
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.worker import work_alone
from jobs.stages.graph import open_search, search_of
from pipeline.search.asking import ask
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from pipeline.training.stopping import Stopped
from pipeline.training.train import train
from pipeline.training.world import World
from tests.command_line import quarterdose
from tests.processes import processes_in, workers_in
from tests.searches import Searching, assert_same_trials, losses, searching
from tests.toy_runs import make_toy_scan, wait_for

pytestmark = pytest.mark.whole


def test_each_network_has_as_many_trials_and_the_better_half_is_trained_to_its_end(searched: Searching) -> None:
    trials = searched.trials()
    assert trials.index.tolist() == [(network, number) for network in "ab" for number in range(4)]
    for network in "ab":
        for numbers in ([0, 1], [2, 3]):
            of_generation = trials.loc[network].loc[numbers]
            (complete,), (pruned,) = (of_generation.query("state == @state").index for state in ("complete", "pruned"))
            assert of_generation["rung"][[complete, pruned]].tolist() == [2, 1]
            first = {number: validated(searched, f"{network}-t{number:04d}")[0] for number in (complete, pruned)}
            assert first[complete] < first[pruned]
            assert of_generation["value"][pruned] == pytest.approx(first[pruned])
    assert (trials["hours"] > 0).all()
    steps = 8 / trials["training.batch"].fillna(2) * trials["rung"]
    assert trials["steps"].tolist() == steps.tolist()


def validated(toy: Searching, trial: str) -> list[float]:
    """Validation RMSE as a share of the input's, after each epoch."""
    lines = pd.read_json(toy.trial(trial) / "metrics.jsonl", lines=True)
    lines = lines.query("kind == 'validation' and step > 0")
    return list(lines["rmse_hu"] / lines["low_dose_rmse_hu"])


def test_the_found_settings_train_the_best_trials_to_the_bit(searched: Searching, tmp_path: Path) -> None:
    """Although those were stopped on a rung, and trained on by another process."""
    trials, data = searched.trials(), searched.run_folder / "data"
    settings = load_settings(searched.run_folder / "search" / "found.yaml", RunSettings)
    split = Split.from_json(json.loads((data / "split.json").read_text()))
    assert settings.search is None
    assert settings.study == RunSettings.model_validate(searching()).study
    for cell in cells_of(settings):
        complete = trials.loc[cell.id].query("state == 'complete'")
        best = int(complete["value"].to_numpy().argmin())
        assert cell.training.learning_rate == complete["training.learning_rate"].iloc[best]
        train(cell, data, split, tmp_path / cell.id, World(), None, ignore_progress)
        assert losses(tmp_path / cell.id) == losses(searched.trial(f"{cell.id}-t{complete.index[best]:04d}"))


def test_the_same_search_again_does_nothing_and_status_shows_its_trials(searched: Searching) -> None:
    assert "nothing to do" in searched.search()
    status = quarterdose(searched.folder, "status", str(searched.run_folder)).stdout
    lines = [line.split()[:3] for line in status.splitlines()]
    assert ["search-1-1", "a-t0000", "done"] in lines
    assert ["search-2-2", "b-t0003", "done"] in lines
    assert ["study", "a", "waiting"] in lines


def searched_here(folder: Path, searched: Searching, stages: Collection[str] | None = None, **search: Any) -> Searching:
    """Search in this process, in a copy of a run whose scan is prepared; ``stages``: that are run, by default all."""
    toy = Searching(folder, searching(**search))
    shutil.copytree(searched.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("search*", "toy.yaml"))
    search_here(toy, stages)
    return toy


def search_here(toy: Searching, stages: Collection[str] | None = None) -> None:
    settings = load_settings(toy.folder / "toy.yaml", RunSettings)
    run = RunFolder(toy.run_folder, settings.model_copy(update={"runs": toy.folder / "runs"}))
    run.record()
    for stage in search_of(run).stages.values():
        if stage.name.startswith("search") and (stages is None or stage.name in stages):
            work_alone(open_search, run.root, stage.name, stage.items())


def test_diverged_trials_are_shown_with_their_reason_and_the_others_go_on(searched: Searching, tmp_path: Path) -> None:
    space = {"study.training.learning_rate": {"choice": [1e-3, 1e30]}}
    toy = searched_here(tmp_path, searched, space=space, generation=4, networks=["b"])
    trials = toy.trials()
    failed = trials[trials["training.learning_rate"] == 1e30]
    assert 0 < len(failed) < 4
    assert (failed["state"] == "failed").all()
    assert failed["reason"].str.contains(r"of cell b-t000\d is (?:not finite|nan|inf)").all()
    assert failed["value"].isna().all()
    assert set(trials["state"][trials["training.learning_rate"] == 1e-3]) == {"complete", "pruned"}
    assert f"; {len(failed)} failed, first: " in (toy.run_folder / "search" / "summary.txt").read_text()


def test_the_best_validation_of_a_trial_is_one_after_a_step(searched: Searching, tmp_path: Path) -> None:
    """As of the training itself: before the first step its error is the input's, and here each step makes it worse."""
    space = {"study.training.learning_rate": {"choice": [1.0]}}
    toy = searched_here(
        tmp_path, searched, training={"keep": "best"}, space=space, trials=1, networks=["a"], halving=None
    )
    (value,) = toy.trials()["value"]
    assert value == pytest.approx(min(validated(toy, "a-t0000")))
    assert value > 1


def test_a_search_of_which_all_trials_failed_says_so(searched: Searching, tmp_path: Path) -> None:
    space = {"study.training.learning_rate": {"choice": [1e30]}}
    toy = searched_here(tmp_path, searched, space=space, trials=1, networks=["a"])
    marker = Markers(toy.run_folder, "search-summary").read("summary")
    assert marker
    assert marker.state == "failed"
    assert marker.reason == "no trial of the search was trained to its end: see search/trials.csv for the reasons"
    assert toy.trials()["state"].tolist() == ["failed"]


def test_a_spent_budget_stops_asking_for_each_network_alike(searched: Searching, tmp_path: Path) -> None:
    toy = searched_here(tmp_path, searched, budget_gpu_hours=1e-9)
    assert toy.trials().index.tolist() == [(network, number) for network in "ab" for number in range(2)]
    outcome = (toy.run_folder / "search" / "summary.txt").read_text()
    assert "4 trials took" in outcome
    assert "search.budget_gpu_hours 1e-09 was spent before the other 4 were asked for" in outcome
    marker = Markers(toy.run_folder, "search-2-1").read("a-t0002")
    assert marker
    assert marker.reason.startswith("search.budget_gpu_hours 1e-09 is spent: the trials of 1 generations took")


def test_a_trial_that_kills_its_processes_fails_in_the_end_and_is_tried_again_by_the_next_run(
    searched: Searching, tmp_path: Path
) -> None:
    toy = searched_here(tmp_path, searched, trials=1, networks=["a"], halving=None, stages=())
    stage = open_search(toy.run_folder).stages["search-1-1"]

    def die(_completed: int, _total: int, _note: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        child = get_context("fork").Process(target=stage.run, args=("a-t0000", World(), die))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    with pytest.raises(MachineError, match="its process died 3 times without a new checkpoint"):
        stage.run("a-t0000", World(), die)
    assert stage.run("a-t0000", World(), ignore_progress)["state"] == "trained"


def test_a_trial_that_is_asked_to_stop_again_and_again_is_not_blamed(searched: Searching, tmp_path: Path) -> None:
    """As by preemption, before its first checkpoint."""
    toy = searched_here(tmp_path, searched, trials=1, networks=["a"], halving=None, stages=())
    stage = open_search(toy.run_folder).stages["search-1-1"]

    def stop(_completed: int, _total: int, _note: str) -> None:
        raise Stopped("asked to stop", signal.SIGTERM)

    for _ in range(5):
        with pytest.raises(Stopped):
            stage.run("a-t0000", World(), stop)
    assert stage.run("a-t0000", World(), ignore_progress)["state"] == "trained"


def test_trials_that_get_other_parameters_start_anew(searched: Searching, tmp_path: Path) -> None:
    """In one generation all are drawn at random; before, the later two were asked of TPE in another stage."""
    shutil.copytree(searched.folder, tmp_path, dirs_exist_ok=True)
    toy = Searching(tmp_path, searching(generation=4, networks=["a"], halving=None))
    search_here(toy)
    drawn = ask(RunSettings.model_validate(searching()).search, "a", range(4), [])  # type: ignore[arg-type]
    rates = [parameters["training.learning_rate"] for parameters in drawn]
    assert toy.trials()["training.learning_rate"].tolist() == rates
    assert searched.trials().loc["a"]["training.learning_rate"].tolist()[2:] != rates[2:]
    for number in range(4):
        steps = [step for kind, step, _ in losses(toy.trial(f"a-t{number:04d}")) if kind == "train"]
        assert steps == list(range(1, 9))


def test_the_page_of_a_search_can_be_made_before_its_end(searched: Searching, tmp_path: Path) -> None:
    toy = searched_here(tmp_path, searched, stages=("search-1-1",), networks=["a"])
    reported = quarterdose(tmp_path, "report", str(toy.run_folder))
    assert reported.returncode == 0, reported.stderr
    assert set(toy.trials()["state"]) == {"unfinished"}
    assert toy.trials()["rung"].tolist() == [1, 1]
    assert "2 trials took" in (toy.run_folder / "search" / "summary.txt").read_text()
    assert "; the other 2 are not asked for yet" in (toy.run_folder / "search" / "index.html").read_text()
    search_here(toy)
    assert toy.trials()["state"].tolist() == searched.trials().loc["a"]["state"].tolist()


def test_a_trial_that_takes_more_memory_than_there_is_fails_as_such(searched: Searching, tmp_path: Path) -> None:
    """In a process that may not have more than it has; the batch takes 16 GiB."""
    space = {"study.training.batch": {"choice": [1024]}, "study.training.samples": {"choice": [1024]}}
    training = {"crop": 512, "samples": 1024, "batch": 1024}
    toy = searched_here(
        tmp_path, searched, stages=(), training=training, space=space, trials=1, networks=["a"], halving=None
    )

    def work() -> None:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        work_alone(open_search, toy.run_folder, "search-1-1", ["a-t0000"])

    child = get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    marker = Markers(toy.run_folder, "search-1-1").read("a-t0000")
    assert marker
    assert (marker.state, marker.result["state"]) == ("done", "failed")
    assert marker.result["reason"] == "this machine has too little memory for it"


def test_more_trials_of_a_random_search_leave_the_first_as_they_are(searched: Searching, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampler": "random", "generation": None, "networks": ["a"], "halving": None}
    toy = searched_here(tmp_path, searched, trials=1, **settings)
    before = Markers(toy.run_folder, "search-1-1").read("a-t0000")
    toy.write(searching(trials=2, **settings))
    search_here(toy)
    assert before
    assert Markers(toy.run_folder, "search-1-1").read("a-t0000") == before
    assert toy.trials().index.tolist() == [("a", 0), ("a", 1)]


def test_a_trial_whose_settings_are_refused_only_together_fails_with_the_sentence(
    searched: Searching, tmp_path: Path
) -> None:
    space = {"study.training.batch": {"choice": [2, 4]}, "study.training.accumulation": {"choice": [1, 4]}}
    toy = searched_here(tmp_path, searched, space=space, trials=8, sampler="random", networks=["a"], halving=None)
    trials = toy.trials()
    refused = trials[(trials["training.batch"] == 4) & (trials["training.accumulation"] == 4)]
    assert 0 < len(refused) < 8
    sentence = "networks.a.training.samples 8 must be a multiple of ranks x batch x accumulation = 16"
    assert set(refused["reason"]) == {sentence}
    assert set(trials["state"].drop(refused.index)) == {"complete"}


def test_a_search_of_which_workers_and_driver_are_killed_ends_with_the_same_trials(
    searched: Searching, tmp_path: Path
) -> None:
    make_toy_scan(tmp_path)
    toy = Searching(tmp_path, searching())
    with toy.start() as process:
        toy.await_files(process, "search/trials/*/checkpoints/*.pt")
        for pid in workers_in(toy.folder):  # one alone would have its trial done by the other
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    # 0: killed between two trials; not run: nobody was left who could have taken the next ones
    words = r"run the same command to try them again|was not run: process \d+ died of SIGKILL; see "
    assert process.returncode == 0 or re.search(words, output), output
    for pattern in ("markers/search-1-2/*.progress", "markers/search-2-1/*.progress"):
        with toy.start() as process:
            toy.await_files(process, pattern)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
        wait_for(lambda: not processes_in(toy.folder), 10)
    toy.search()
    assert_same_trials(toy, searched)
