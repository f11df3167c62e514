from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.progress import Progress
from jobs.engine.graph import Decision, Graph
from jobs.engine.marker import Marker
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
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
    assert found["x"].why == "never run"
    assert found["z"].why == "toy/x runs first"


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
    assert decisions(graph)["x"].why == why


def test_a_changed_version_a_missing_output_and_a_remade_input_are_named(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_all(graph)
    finish(graph, "toy", "y", at=2.0)
    assert decisions(graph)["z"].why == "toy/y was made again"
    (graph.stages["toy"].folder.root / "x").unlink()
    assert decisions(graph)["x"].why == "x is missing"
    monkeypatch.setattr(Toy, "version", 2)
    assert decisions(graph)["x"].why == "version changed from 1 to 2"


def test_failures_are_tried_again_and_refusals_only_when_something_changed(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(graph, "toy", "x", state="failed", reason="disk full")
    finish(graph, "toy", "y", state="refused", reason="tilted")
    found = decisions(graph)
    assert (found["x"].run, found["x"].why) == (True, "failed before: disk full")
    assert (found["y"].run, found["y"].why) == (False, "refused")
    finish(graph, "toy", "x")
    assert (decisions(graph)["z"].run, decisions(graph)["z"].why) == (False, "blocked: toy/y did not succeed")
    monkeypatch.setattr(After, "any_input", True)
    assert decisions(graph)["z"].run
    monkeypatch.setattr(Toy, "options", {"rate": 2})
    assert decisions(graph)["y"].run
