from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.progress import Progress
from jobs.engine.decision import Decision
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.outcome import RunFailed, check_stage
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
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


def finish(graph: Graph, stage: str, item: str, at: float = 1.0, state: str = "done", reason: str = "") -> None:
    toy = graph.stages[stage]
    (toy.folder.root / item).touch()
    toy.markers.write(item, Marker(state, graph.parts(toy, item), at, 1.0, reason, {}))  # type: ignore[arg-type]


def decisions(graph: Graph) -> dict[str, Decision]:
    return {decision.ref[1]: decision for decision in graph.decide_all()}


def finish_all(graph: Graph) -> None:
    for stage, item in (("toy", "x"), ("toy", "y"), ("after", "z")):
        finish(graph, stage, item)


def test_nothing_done_means_everything_runs(graph: Graph) -> None:
    found = decisions(graph)
    assert [found[item].run for item in "xyz"] == [True] * 3
    assert str(found["x"].reason) == "never run"
    assert str(found["z"].reason) == "toy/x runs first"


def test_complete_items_stay(graph: Graph) -> None:
    finish_all(graph)
    assert not any(decision.run for decision in decisions(graph).values())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rate": 2, "deep": {"a": [1, 2]}}, "rate changed from 1 to 2"),
        ({"rate": 1, "deep": {"a": [1, 3]}}, "deep.a changed from [1, 2] to [1, 3]"),
        ({"rate": 1, "deep": {"a": [1, 2]}, "new": 5}, "new changed from None to 5"),
    ],
)
def test_a_changed_setting_is_named(graph: Graph, monkeypatch: pytest.MonkeyPatch, options: Any, why: str) -> None:
    finish_all(graph)
    monkeypatch.setattr(Toy, "options", options)
    assert str(decisions(graph)["x"].reason) == why


def test_a_changed_version_a_missing_output_and_a_remade_input_are_named(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_all(graph)
    finish(graph, "toy", "y", at=2.0)
    assert str(decisions(graph)["z"].reason) == "toy/y was made again"
    (graph.stages["toy"].folder.root / "x").unlink()
    assert str(decisions(graph)["x"].reason) == "x is missing"
    monkeypatch.setattr(Toy, "version", 2)
    assert str(decisions(graph)["x"].reason) == "version changed from 1 to 2"


def test_failures_are_tried_again_and_refusals_only_when_something_changed(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(graph, "toy", "x", state="failed", reason="disk full")
    finish(graph, "toy", "y", state="refused", reason="tilted")
    found = decisions(graph)
    assert (found["x"].run, str(found["x"].reason)) == (True, "failed before: disk full")
    assert (found["y"].run, str(found["y"].reason)) == (False, "refused")
    finish(graph, "toy", "x")
    assert (decisions(graph)["z"].run, str(decisions(graph)["z"].reason)) == (False, "blocked: toy/y did not succeed")
    monkeypatch.setattr(After, "accepts_failed_inputs", True)
    assert decisions(graph)["z"].run
    monkeypatch.setattr(Toy, "options", {"rate": 2})
    assert decisions(graph)["y"].run


class Many(Toy):
    name = "many"
    is_lenient = True

    def items(self) -> list[str]:
        return [f"{number:03}" for number in range(150)]


def test_a_single_success_among_many_items_is_enough(graph: Graph) -> None:
    many = Many(graph.stages["toy"].folder)
    for item in many.items():
        many.markers.write(item, Marker("failed", {}, 1.0, 1.0, "", {}))
    with pytest.raises(RunFailed, match="150 of 150 items of many did not succeed, which is too many to go on"):
        check_stage(many)
    many.markers.write("007", Marker("done", {}, 1.0, 1.0, "", {}))
    check_stage(many)


def test_a_stage_allows_so_many_failures_of_a_number_of_items(graph: Graph) -> None:
    folder = graph.stages["toy"].folder
    assert [Toy(folder).allowed_failures(count) for count in (0, 1, 150)] == [0, 0, 0]
    assert [Many(folder).allowed_failures(count) for count in (0, 1, 150)] == [0, 0, 149]
    data = folder.settings.data.model_copy(update={"max_failed": 0.07})
    prepare = Prepare(RunFolder.of(folder.settings.model_copy(update={"data": data})))
    assert [prepare.allowed_failures(count) for count in (1, 100, 150)] == [0, 7, 10]
