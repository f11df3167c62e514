"""What a process within a job knows of itself, from its environment."""

import signal
from pathlib import Path

import pytest

from data_prep.errors import UserError
from slurm import job
from slurm.job import describe_stop, process, rendezvous_address, requeue, share, start_of_job
from tests.programs import write_program


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


def test_a_start_of_a_job_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_of_job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    assert start_of_job() == "14.0"
    for name, text in {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", text)
    assert start_of_job() == "12_3.1"


def test_ranks_meet_on_their_first_node_at_a_port_of_their_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "scontrol", "[ \"$*\" = 'show hostnames node[3-4]' ] && echo node3 && echo node4")
    for name, text in {"PATH": f"{tmp_path}:/bin", "SLURM_JOB_ID": "16001", "SLURM_JOB_NODELIST": "node[3-4]"}.items():
        monkeypatch.setenv(name, text)
    assert [rendezvous_address(number) for number in (0, 7)] == ["tcp://node3:12001", "tcp://node3:12008"]


def test_why_a_job_was_asked_to_stop_is_said_where_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_stop(signal.SIGTERM) == "it was cancelled or preempted"
    assert describe_stop(signal.SIGUSR2) == "its time limit came near, or its nodes were taken"


def test_a_rank_that_does_not_lead_puts_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "scontrol", f"echo $* >> {tmp_path}/calls")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(job, "_END_SECONDS", 0)
    with pytest.raises(RuntimeError, match="Slurm did not end it"):
        requeue(leads=False)
    assert not (tmp_path / "calls").exists()


def test_the_task_whose_number_is_that_of_its_array_speaks_for_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm takes ``scontrol requeue 12`` for all tasks, also those that run or are done."""
    write_program(tmp_path, "scontrol", f"""
echo $* >> {tmp_path}/calls
echo ArrayTaskId=3 EndTime=$(($(date +%s) + 36000)) PreemptTime=None
[ $3 = 12_3 ] || echo ArrayTaskId=2 EndTime=$(($(date +%s) - 60)) PreemptTime=None
""")  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("JOB_ID", "ARRAY_JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "12")
    array(monkeypatch, ID=3)
    monkeypatch.setattr(job, "_END_SECONDS", 0)
    assert describe_stop(signal.SIGUSR2) == "of a signal"
    with pytest.raises(RuntimeError, match="Slurm did not end it"):
        requeue(leads=True)
    assert (tmp_path / "calls").read_text().splitlines() == ["show job 12_3", "requeue 12_3"]
