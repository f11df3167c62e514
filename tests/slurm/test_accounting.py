"""What the states of jobs mean, without a Slurm."""

from pathlib import Path

import pytest

from slurm.accounting import Allocation
from slurm.commands import SlurmError
from slurm.states import ENDED_BADLY, ENDED_WELL, RUNNING, WAITING, _states_of, job_states


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
