"""Launchers of worker processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.engine.launch import share_items, show_gpu


@pytest.mark.parametrize(("visible", "seen"), [(None, ["0", "1", "0"]), ("5,GPU-a,7", ["5", "GPU-a", "5"])])
def test_workers_of_a_machine_take_its_gpus_in_turn(
    visible: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a list of three, CUDA may count two: those from the first that there is none of on are not seen."""
    for worker, gpu in enumerate(seen):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        show_gpu(worker, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu


def test_each_worker_begins_with_its_share_and_helps_the_others_from_their_ends() -> None:
    assert share_items(list("abcde"), 2) == [list("acedb"), list("bdeca")]
    assert share_items(list("abcdef"), 3) == [list("adebfc"), list("befcda"), list("cfdaeb")]
    assert share_items(["a"], 2) == [["a"], ["a"]]


def test_a_machine_of_one_gpu_or_none_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count in (0, 1):
        show_gpu(1, count)
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.slow
def test_processes_are_started_without_the_import_of_torch(tmp_path: Path) -> None:
    """It takes two seconds of a core, of each command."""
    code = f"""
import sys, time
from pathlib import Path
from jobs.engine.launch import LocalProcesses
processes = LocalProcesses([(time.sleep, (), 2)], [], Path({str(tmp_path)!r}))
while not processes.have_ended():
    pass
print(repr(processes.fault()), "torch" in sys.modules)
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "'' False\n"
