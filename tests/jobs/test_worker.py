"""What a worker does with the items of a stage, and what it records of them."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from data_prep.errors import MachineError, UserError
from data_prep.files import digest_json, locked
from data_prep.progress import Progress
from jobs.engine import worker
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.outcome import RunFailed
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Stage
from jobs.engine.worker import PEER_LOST, work_alone, work_together
from pipeline.settings.run import RunSettings
from pipeline.training.errors import CheckpointError, TrainingError
from pipeline.training.stopping import Stopped
from pipeline.training.world import DistributionError, PeerLost, World

Run = Callable[[str, World, Progress], Mapping[str, Any]]


class Toy(Stage):
    """Items a, b and c; each writes a file of its name, by what the test gives as ``does``."""

    name = "toy"
    options: ClassVar[dict[str, int]] = {"rate": 1}
    does: Run = staticmethod(lambda *_arguments: {"voxels": 7})
    discarded: ClassVar[list[str]] = []

    def items(self) -> list[str]:
        return ["a", "b", "c"]

    def reads(self, item: str) -> Mapping[str, Any]:
        return self.options

    def outputs(self, item: str) -> list[Path]:
        return [self.folder.root / item]

    def discard(self, item: str) -> None:
        self.discarded.append(item)

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        summary = dict(self.does(item, world, progress))
        (self.folder.root / item).write_text("voxels")
        return summary


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setattr(Toy, "discarded", [])
    settings = RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": {"sources": [{"kind": "sample"}]}})
    folder = RunFolder.of(settings)
    folder.root.mkdir()
    return Toy(folder)


def work(stage: Stage, *items: str) -> None:
    work_alone(lambda _root: Graph([stage]), stage.folder.root, stage.name, items)


def join(stage: Stage, item: str, rank: int, size: int = 2) -> None:
    work_together(lambda _root: Graph([stage]), stage.folder.root, stage.name, item, World(rank, size))


def marker_of(stage: Stage, item: str) -> Marker:
    marker = stage.markers.read(item)
    assert marker is not None
    return marker


def test_what_was_done_is_recorded_with_all_that_it_depends_on(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    work(toy, "a", "b")
    marker = marker_of(toy, "a")
    assert (marker.state, marker.reason, marker.result) == ("done", "", {"voxels": 7})
    assert marker.parts == {"version": 1, "settings": {"rate": 1}, "inputs": {}}
    assert list(marker.outputs) == ["a"]
    assert marker.product == digest_json(marker.outputs)
    assert 0 <= marker.seconds < 10
    assert toy.markers.read_start("a") == digest_json(marker.parts)
    assert toy.markers.items() == ["a", "b"]
    assert toy.markers.read_progress("a") is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy/a: started as rank 0 of 1"  # which `logs` looks for
    assert "toy/a: done" in lines


def test_items_of_others_are_left_alone(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another worker is at, has done, or failed at meanwhile; what failed before is tried again."""
    ended: list[str] = []

    def does(item: str, _world: World, _progress: Progress) -> dict[str, Any]:
        ended.append(item)
        toy.markers.write("c", Marker("failed", {}, 2.0, 1.0, "slice 3 is broken", {}))
        return {}

    monkeypatch.setattr(Toy, "does", staticmethod(does))
    for item in ("b", "c"):
        toy.markers.write(item, Marker("failed", {}, 1.0, 1.0, "no room", {}))
    with locked(toy.markers.lock("a")):
        work(toy, "a", "b", "c")
    assert ended == ["b"]
    work(toy, "b")
    assert ended == ["b"]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("slice 3 is tilted"), "refused", "slice 3 is tilted"),
        (
            ValueError("Jane  Doe\nat 3"),
            "failed",
            "a fault of quarterdose in fail, line {line} of test_worker.py: Jane Doe at 3",
        ),
    ],
)
def test_a_failure_is_recorded_and_the_next_item_is_done(
    toy: Toy, error: Exception, state: str, reason: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(item: str, *_arguments: object) -> dict[str, Any]:
        if item == "a":
            raise error
        return {}

    monkeypatch.setattr(Toy, "does", staticmethod(fail))
    work(toy, "a", "b")
    marker = marker_of(toy, "a")
    line = fail.__code__.co_firstlineno + 2
    assert (marker.state, marker.reason, marker.outputs) == (state, reason.format(line=line), {})
    assert marker.parts["settings"] == {"rate": 1}
    assert toy.markers.read_progress("a") is None
    assert marker_of(toy, "b").state == "done"
    log = "".join(capfd.readouterr())
    assert ("Traceback" in log, str(error) in log) == (state == "failed", True)


@pytest.mark.parametrize("kind", [MachineError, RunFailed, DistributionError, PeerLost, TrainingError, CheckpointError])
def test_errors_that_are_sentences_are_told_as_they_are(
    toy: Toy, kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = kind("rank 1 of 2 gave no sign of life")

    def fail(*_arguments: object) -> dict[str, Any]:
        raise failure

    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(Toy, "does", staticmethod(fail))
    work(toy, "a")
    assert (marker_of(toy, "a").state, marker_of(toy, "a").reason) == ("failed", str(failure))
    log = "".join(capfd.readouterr())
    assert str(failure) in log
    assert "Traceback" not in log
    assert (PEER_LOST in log) == (kind is PeerLost)


def test_a_rank_that_lost_another_lets_that_one_tell_the_reason(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(item: str, *_arguments: object) -> dict[str, Any]:
        other = Marker("failed", {}, 1.0, 1.0, "slice 3 is broken", {})
        threading.Timer(0.1, toy.markers.write, (item, other)).start()
        raise PeerLost("rank 0 of 2 gave no sign of life")

    monkeypatch.setattr(worker, "_GRACE_SECONDS", 1.0)
    monkeypatch.setattr(Toy, "uses_ranks", True)
    monkeypatch.setattr(Toy, "does", staticmethod(fail))
    with pytest.raises(PeerLost):
        join(toy, "a", 1)
    assert marker_of(toy, "a").reason == "slice 3 is broken"


def test_a_private_stage_tells_no_words_of_an_error(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = ValueError("Jane Doe")

    def fail(*_arguments: object) -> dict[str, Any]:
        raise failure

    monkeypatch.setattr(Toy, "private", True)
    monkeypatch.setattr(Toy, "does", staticmethod(fail))
    work(toy, "a")
    line = fail.__code__.co_firstlineno + 1
    words = f"a fault of quarterdose in fail, line {line} of test_worker.py"
    assert marker_of(toy, "a").reason == words
    log = "".join(capfd.readouterr())
    assert words in log
    assert "Doe" not in log
    monkeypatch.setattr(Toy, "outputs", fail)
    with pytest.raises(RuntimeError, match="a fault of quarterdose in fail") as error:
        work(toy, "b")
    assert "Doe" not in str(error.value)
    monkeypatch.setattr(Toy, "private", False)
    with pytest.raises(ValueError, match="Jane Doe"):
        work(toy, "b")


def test_what_other_settings_began_is_discarded_before_it_is_done_anew(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: object) -> dict[str, Any]:
        assert toy.markers.read("a") is None  # the end of an earlier start
        raise Stopped("asked to stop", 15)

    monkeypatch.setattr(Toy, "does", staticmethod(stop))
    toy.markers.write("a", Marker("failed", {}, 1.0, 1.0, "no room", {}))
    for options, discarded in (({"rate": 1}, []), ({"rate": 1}, []), ({"rate": 2}, ["a"])):
        monkeypatch.setattr(Toy, "options", options)
        with pytest.raises(Stopped):  # the worker was asked, not the item
            work(toy, "a")
        assert toy.discarded == discarded
        assert toy.markers.read("a") is None


def test_an_item_whose_input_was_changed_since_is_not_done(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be done from other bytes than those that its marker names."""
    work(toy, "a")
    (toy.folder.root / "a").write_text("other voxels")
    monkeypatch.setattr(Toy, "inputs", lambda _self, item: [("toy", "a")] if item == "b" else [])
    work(toy, "b")
    assert marker_of(toy, "b").state == "failed"
    assert "t/a was cut or changed after it was written: run the same command again" in marker_of(toy, "b").reason
    assert not (toy.folder.root / "b").exists()


def test_rank_0_alone_records_what_the_ranks_have_done(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "uses_ranks", True)
    is_running: list[bool] = []

    def does(item: str, *_arguments: object) -> dict[str, Any]:
        is_running.append(toy.markers.is_running(item))
        return {}

    monkeypatch.setattr(Toy, "does", staticmethod(does))
    join(toy, "a", 1)
    assert (toy.markers.read("a"), toy.markers.read_progress("a")) == (None, None)
    join(toy, "a", 0)
    assert marker_of(toy, "a").state == "done"
    assert is_running == [False, True]


def test_a_rank_that_is_asked_to_stop_records_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_arguments: object) -> dict[str, Any]:
        raise Stopped("a was asked to stop", 15)

    monkeypatch.setattr(Toy, "uses_ranks", True)
    monkeypatch.setattr(Toy, "does", staticmethod(stop))
    with pytest.raises(Stopped):
        join(toy, "a", 0)
    assert (marker_of(toy, "a").state, marker_of(toy, "a").reason) == ("failed", "a was asked to stop")
    assert marker_of(toy, "a").is_stopped


def test_progress_is_written_now_and_then_and_at_the_end_by_rank_0_alone(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str]] = []

    def does(item: str, world: World, progress: Progress) -> dict[str, Any]:
        for completed in range(101):
            progress(completed, 100, "slices")
            path = toy.markers.folder / f"{item}.progress"
            if path.exists():
                step = json.loads(path.read_text())
                seen.append((step["done"], step["total"], step["note"]))
        return {}

    monkeypatch.setattr(Toy, "does", staticmethod(does))
    monkeypatch.setattr(worker, "_REPORT_SECONDS", 1000.0)
    work(toy, "a")
    assert list(dict.fromkeys(seen)) == [(0, 1, "starting"), (100, 100, "slices")]
    seen.clear()
    join(toy, "b", 1)
    assert seen == []
    monkeypatch.setattr(worker, "_REPORT_SECONDS", 0.0)
    work(toy, "c")
    assert [completed for completed, _, _ in seen] == list(range(101))
