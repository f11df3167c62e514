import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.files import digest_json, locked
from data_prep.progress import Progress
from jobs.engine.decision import Decision
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker, State
from jobs.engine.outcome import RunFailed, check_stage
from jobs.engine.outputs import check_outputs, digest_outputs
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.engine.worker import work_together
from jobs.stages.prepare import Prepare
from pipeline.settings.run import RunSettings
from pipeline.training.world import World


class Toy(Stage):
    name = "toy"
    options: Mapping[str, Any] = {"rate": 1, "deep": {"a": [1, 2]}}

    def items(self) -> list[str]:
        return ["x", "y"]

    def reads(self, item: str) -> Mapping[str, Any]:
        return self.options

    def outputs(self, item: str) -> list[Path]:
        return [self.folder.root / item]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        raise NotImplementedError


class After(Toy):
    name = "after"

    def items(self) -> list[str]:
        return ["z"]

    def inputs(self, item: str) -> list[Ref]:
        return [("toy", "x"), ("toy", "y")]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    settings = RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": {"sources": [{"kind": "sample"}]}})
    folder = RunFolder.of(settings)
    folder.root.mkdir()
    return Graph([Toy(folder), After(folder)])


def finish(graph: Graph, stage: str, item: str, text: str = "", state: State = "done", reason: str = "") -> None:
    """Leave what a worker leaves of an item whose output holds ``text``."""
    toy = graph.stages[stage]
    (toy.folder.root / item).write_text(text)
    outputs = digest_outputs(toy, item)
    product = digest_json(toy.product({}, outputs))
    toy.markers.write(item, Marker(state, graph.parts(toy, item), 1.0, 1.0, reason, {}, outputs, product))


def decisions(graph: Graph) -> dict[str, Decision]:
    return {decision.ref[1]: decision for decision in graph.decide_all()}


def finish_all(graph: Graph) -> None:
    for stage, item in (("toy", "x"), ("toy", "y"), ("after", "z")):
        finish(graph, stage, item)


def test_nothing_done_means_everything_runs(graph: Graph) -> None:
    by_item = decisions(graph)
    assert [by_item[item].run for item in "xyz"] == [True] * 3
    assert str(by_item["x"].reason) == "never run"
    assert str(by_item["z"].reason) == "toy/x runs first"


def test_complete_items_stay(graph: Graph) -> None:
    finish_all(graph)
    assert not any(decision.run for decision in decisions(graph).values())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rate": 2, "deep": {"a": [1, 2]}}, "rate changed from 1 to 2"),
        ({"rate": 1, "deep": {"a": [1, 3]}}, "deep.a changed from [1, 2] to [1, 3]"),
        ({"rate": 1, "deep": {"a": [1, 2]}, "new": 5}, "new changed from None to 5"),
    ],
)
def test_a_changed_setting_is_named(graph: Graph, monkeypatch: pytest.MonkeyPatch, options: Any, reason: str) -> None:
    finish_all(graph)
    monkeypatch.setattr(Toy, "options", options)
    assert str(decisions(graph)["x"].reason) == reason


def test_a_changed_version_a_missing_output_and_a_remade_input_are_named(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_all(graph)
    finish(graph, "toy", "y", "other")
    assert str(decisions(graph)["z"].reason) == "toy/y was made again"
    (graph.stages["toy"].folder.root / "x").unlink()
    assert str(decisions(graph)["x"].reason) == "x is missing"
    monkeypatch.setattr(Toy, "version", 2)
    assert str(decisions(graph)["x"].reason) == "version changed from 1 to 2"


def test_an_item_that_gives_the_same_bytes_again_makes_nothing_after_it_again(graph: Graph) -> None:
    finish_all(graph)
    graph.stages["toy"].markers.remove("y")
    assert [decisions(graph)[item].run for item in "xyz"] == [False, True, True]  # z, as long as y is not done
    finish(graph, "toy", "y")
    assert not any(decision.run for decision in decisions(graph).values())


def test_inputs_that_come_and_go_are_named(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_all(graph)
    monkeypatch.setattr(After, "inputs", lambda self, item: [("toy", "x")])
    assert str(decisions(graph)["z"].reason) == "toy/y was taken away"
    finish(graph, "after", "z")
    monkeypatch.undo()
    assert str(decisions(graph)["z"].reason) == "toy/y is new"


def test_a_changed_output_is_seen_by_its_bytes_and_not_by_its_times(graph: Graph) -> None:
    finish_all(graph)
    path = graph.stages["toy"].folder.root / "x"
    os.utime(path, (1, 1))
    assert not decisions(graph)["x"].run
    path.write_text("x")
    os.utime(path, (1, 1))
    assert str(decisions(graph)["x"].reason) == "x was cut or changed after it was written"
    with pytest.raises(RunFailed, match=r"/t/x was cut or changed after it was written: run the same command again"):
        check_outputs([(graph.stages["toy"], "x")])


@pytest.mark.parametrize("spoil", [lambda text: text[: len(text) // 2], lambda text: text.replace("1.0", "1.5", 1)])
def test_a_marker_that_was_cut_or_changed_is_no_marker(graph: Graph, spoil: Callable[[str], str]) -> None:
    finish_all(graph)
    path = graph.stages["toy"].markers.folder / "x.json"
    path.write_text(spoil(path.read_text()))
    reason = f"failed before: {path} was cut or changed, or is of another version of quarterdose"
    assert str(decisions(graph)["x"].reason) == reason
    assert str(decisions(graph)["z"].reason) == "toy/x runs first"


def test_failures_are_tried_again_and_refusals_unless_only_the_settings_decide(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(graph, "toy", "x", state="failed", reason="disk full")
    finish(graph, "toy", "y", state="refused", reason="tilted")
    by_item = decisions(graph)
    assert (by_item["x"].run, str(by_item["x"].reason)) == (True, "failed before: disk full")
    assert (by_item["y"].run, str(by_item["y"].reason)) == (True, "refused before: tilted")
    monkeypatch.setattr(Toy, "keeps_refusals", True)
    assert (decisions(graph)["y"].run, str(decisions(graph)["y"].reason)) == (False, "refused")
    finish(graph, "toy", "x")
    assert (decisions(graph)["z"].run, str(decisions(graph)["z"].reason)) == (False, "blocked: toy/y did not succeed")
    monkeypatch.setattr(After, "accepts_failed_inputs", True)
    assert decisions(graph)["z"].run
    monkeypatch.setattr(Toy, "options", {"rate": 2})
    assert decisions(graph)["y"].run


def test_a_rank_marks_no_item_that_ranks_of_another_start_are_at(graph: Graph) -> None:
    markers, rank = graph.stages["toy"].markers, World(1, 2, 1, "tcp://node:2")

    def fail() -> Marker | None:
        with pytest.raises(NotImplementedError):
            work_together(lambda _root: graph, markers.folder, "toy", "x", rank)
        return markers.read("x")

    markers.write_start("x", "digest", "tcp://node:1")
    with locked(markers.lock("x")):
        assert fail() is None
        markers.write_death("x", "its process ended early")
        assert markers.read("x") is None
        markers.write_start("x", "digest", rank.rendezvous)
        marker = fail()
        assert marker is not None
        assert marker.state == "failed"
    markers.remove("x")
    markers.write_start("x", "digest", "tcp://node:1")  # whose ranks have died
    assert fail() is not None


class Many(Toy):
    name = "many"
    is_lenient = True

    def items(self) -> list[str]:
        return [f"{number:03}" for number in range(150)]


def test_a_single_success_among_many_items_is_enough(graph: Graph) -> None:
    stage = Many(graph.stages["toy"].folder)
    for item in stage.items():
        stage.markers.write(item, Marker("failed", {}, 1.0, 1.0, "", {}))
    with pytest.raises(RunFailed, match="150 of 150 items of many did not succeed, which is too many to go on"):
        check_stage(stage)
    stage.markers.write("007", Marker("done", {}, 1.0, 1.0, "", {}))
    check_stage(stage)


def test_a_stage_allows_so_many_failures_of_a_number_of_items(graph: Graph) -> None:
    folder = graph.stages["toy"].folder
    assert [Toy(folder).allowed_failures(count) for count in (0, 1, 150)] == [0, 0, 0]
    assert [Many(folder).allowed_failures(count) for count in (0, 1, 150)] == [0, 0, 149]
    data = folder.settings.data.model_copy(update={"max_failed": 0.07})
    prepare = Prepare(RunFolder.of(folder.settings.model_copy(update={"data": data})))
    assert [prepare.allowed_failures(count) for count in (1, 100, 150)] == [0, 7, 10]
