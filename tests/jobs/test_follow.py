"""Logs of failed processes: first of those that failed by themselves."""

from pathlib import Path

from jobs.engine.follow import failing_logs
from jobs.engine.run_folder import RunFolder
from jobs.engine.worker import PEER_LOST
from pipeline.settings.run import RunSettings


def run_folder(root: Path) -> RunFolder:
    settings = RunSettings.model_validate({"name": "t", "runs": root, "data": {"sources": [{"kind": "sample"}]}})
    folder = RunFolder.of(settings)
    (folder.root / "logs").mkdir(parents=True)
    return folder


def test_a_rank_that_only_lost_another_comes_last(tmp_path: Path) -> None:
    """Also one that heard nothing of the other any more, and tells of no connection."""
    folder = run_folder(tmp_path)
    lost = f"{PEER_LOST}\nrank 1 of 2 gave no sign of life for 15 s\nsrun: error: task 0 exited\n"
    for rank, text in enumerate((lost, "Traceback\nValueError: slice 3 is broken\n", "done\n")):
        (folder.root / "logs" / f"study.3d-s16-r2.rank{rank}.log").write_text(text)
    assert [path.name for path, _ in failing_logs(folder, None)] == [
        "study.3d-s16-r2.rank1.log", "study.3d-s16-r2.rank0.log"
    ]  # fmt: skip
    assert not list(failing_logs(folder, "train"))


def test_without_a_failure_the_newest_log_is_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder.root / "logs" / "prepare.a.log").write_text("prepare/a: done\n")
    assert list(failing_logs(folder, "prepare")) == [(folder.root / "logs" / "prepare.a.log", "prepare/a: done")]
