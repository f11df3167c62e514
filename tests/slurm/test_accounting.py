"""What the states of jobs mean, without a Slurm."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.accounting import Allocation, allocations
from slurm.commands import SlurmError
from slurm.states import ENDED_BADLY, ENDED_WELL, RUNNING, WAITING, _states_of, job_states
from tests.programs import write_program


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let Slurm's accounting print these lines, or fail with words of its own."""

    def says(*lines: str, error: str = "") -> None:
        ends = [f"echo '{error}' >&2", "exit 1"] if error else []
        write_program(tmp_path, "sacct", "\n".join(["cat <<END", *lines, "END", *ends]))

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return says


def test_a_line_of_waiting_tasks_is_one_allocation_each(sacct: Callable[..., None]) -> None:
    """With a step, a single task, and the most that run at once."""
    sacct("8_[0-6:2,9,11-12%4]|PENDING|0:0|Resources|100|100|Unknown|Unknown|||None assigned")
    waiting = allocations(["8"]) or []
    assert {x.job for x in waiting} == {f"8_{task}" for task in (0, 2, 4, 6, 9, 11, 12)}
    assert len(waiting) == 7
    assert {(x.started, x.waited, x.seconds, x.gpus, x.cpus, x.nodes) for x in waiting} == {(None, None, 0, 0, 0, "")}
    assert [x.job for x in allocations(["8_9"]) or []] == ["8_9"]


def test_starts_of_a_job_are_numbered_by_time_whatever_their_order(sacct: Callable[..., None]) -> None:
    start = "8|{}|0:0|None|{}|{}|{}|{}|5|billing=4,cpu=4,gres/gpu:a100=2,gres/gpu:v100=1,node=1|node1"
    sacct(start.format("COMPLETED", 300, 310, 330, 335), start.format("CANCELLED by 1000", 100, 110, 111, 116))
    first, second = allocations(["8"]) or []
    assert (first.incarnation, first.state, first.waited) == (0, "CANCELLED", 1)
    assert (second.incarnation, second.state, second.waited) == (1, "COMPLETED", 20)
    assert (second.gpus, second.cpus, second.gpu_seconds) == (3, 4, 15)


def test_a_cluster_without_accounting_is_told_from_one_that_does_not_answer(sacct: Callable[..., None]) -> None:
    sacct(error="Slurm accounting storage is disabled")
    assert allocations(["8"]) is None
    sacct(error="slurmdbd: Connection refused")
    with pytest.raises(SlurmError, match=r"^sacct said: slurmdbd: Connection refused$"):
        allocations(["8"])


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"^sacct is not installed here$"):
        job_states(["1"])


def test_the_sets_of_states_are_apart() -> None:
    sets = (WAITING, RUNNING, ENDED_WELL, ENDED_BADLY)
    assert len(frozenset().union(*sets)) == sum(len(states) for states in sets)


@pytest.mark.parametrize(("state", "final"), [("COMPLETED", True), ("NODE_FAIL", False), ("RUNNING", False)])
def test_accountings_word_is_final_if_the_queue_has_let_go(state: str, final: bool) -> None:
    allocation = Allocation("8", 1, state, "0:0", "", "node1", 1.0, 2.0, 3.0, None, 4.0, 2, 1)
    assert (allocation.waited, allocation.gpu_seconds) == (1.0, 8.0)
    assert _states_of([allocation], left_queue=True)["8"].final
    assert _states_of([allocation], left_queue=False)["8"].final == final
