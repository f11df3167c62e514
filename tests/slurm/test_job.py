"""What a process within a job knows of itself, from its environment."""

import pytest

from data_prep.errors import UserError
from slurm.job import process, share


def array(monkeypatch: pytest.MonkeyPatch, **numbers: int) -> None:
    for name, number in numbers.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))


def test_tasks_of_an_array_share_from_its_first_number_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share() == (0, 1)
    array(monkeypatch, MIN=4, MAX=6, COUNT=3, ID=5)
    assert share() == (1, 3)


@pytest.mark.parametrize("numbers", [{"MIN": 3, "MAX": 7, "COUNT": 2}, {"MIN": 0, "MAX": 62, "COUNT": 32}])
def test_an_array_with_gaps_is_refused(numbers: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    array(monkeypatch, **numbers, ID=numbers["MAX"])
    with pytest.raises(UserError, match=rf"submit it with --array=0-{numbers['COUNT'] - 1}; items that are done are"):
        share()


def test_a_rank_outside_of_a_job_is_told_where_ranks_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(UserError, match="SLURM_PROCID is not set: a training's ranks are started by srun within a job"):
        process()
