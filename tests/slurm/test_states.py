"""Against a real Slurm."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from slurm import commands
from slurm.accounting import Allocation, allocations
from slurm.causes import find_cause
from slurm.commands import SlurmError
from slurm.devcluster import Cluster, Shape
from slurm.states import ENDED_BADLY, ENDED_WELL, NOT_FINAL, JobState, cancel, job_states
from tests.slurm.clusters import PORT, kill_controller, running

pytestmark = pytest.mark.slurm

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").command("scancel", "--user=root")


def sbatch(cluster: Cluster, script: str, *options: str) -> str:
    log = str(cluster.folder / "log" / "job-%A_%a.out")
    return cluster.command("sbatch", "--parsable", "--mem=100", f"--output={log}", *options, f"--wrap={script}").strip()


def log_of(cluster: Cluster, job: str) -> str:
    return next((cluster.folder / "log").glob(f"job-{job}_*.out")).read_text()


def until(ask: Callable[[], T], holds: Callable[[T], bool]) -> T:
    deadline = time.monotonic() + 90
    while not holds(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    return answer


def state_when(job: str, states: frozenset[str]) -> JobState:
    reached = until(lambda: job_states([job]).get(job), lambda state: state is not None and state.state in states)
    assert reached is not None
    return reached


def accounted(job: str, holds: Callable[[list[Allocation]], bool]) -> list[Allocation]:
    """Accounting follows the queue within seconds."""
    return until(lambda: allocations([job]) or [], holds)


def all_ended(records: list[Allocation]) -> bool:
    return bool(records) and all(record.state in ENDED_WELL | ENDED_BADLY for record in records)


def test_a_job_waits_with_its_reason_then_runs_on_its_node(cluster: Cluster) -> None:
    first = sbatch(cluster, "sleep 60", "--gpus=3", "--nodelist=node3", "--cpus-per-task=2")
    second = sbatch(cluster, "true", f"--dependency=afterok:{first}")
    active = state_when(first, frozenset({"RUNNING"}))
    assert (active.nodes, active.reason, active.restarts, active.ended, active.final) == ("node3", "", 0, None, False)
    assert active.submitted is not None
    assert active.started is not None
    assert time.time() - 60 < active.submitted <= active.started <= time.time() + 1
    waits = job_states([second])[second]
    assert (waits.state, waits.reason, waits.nodes, waits.started, waits.final) == (
        "PENDING", "Dependency", "", None, False,
    )  # fmt: skip
    (held,) = accounted(first, lambda records: bool(records) and records[0].state == "RUNNING")
    assert (held.gpus, held.cpus, held.nodes, held.ended) == (3, 2, "node3", None)
    assert held.gpu_seconds == 3 * held.seconds


def test_a_job_completes(cluster: Cluster) -> None:
    job = sbatch(cluster, "sleep 2", "--gpus=2")
    completed = state_when(job, ENDED_WELL)
    assert (completed.state, completed.exit, completed.final, completed.restarts) == ("COMPLETED", "0:0", True, 0)
    assert completed.started is not None
    assert completed.ended is not None
    assert completed.ended - completed.started >= 1
    (record,) = accounted(job, all_ended)
    assert (record.incarnation, record.state, record.gpus) == (0, "COMPLETED", 2)
    assert (record.started, record.ended, record.seconds) == (
        completed.started,
        completed.ended,
        completed.ended - completed.started,
    )
    assert job_states([job, "1"]) == {job: completed}


def test_a_job_fails_with_its_exit_code(cluster: Cluster) -> None:
    job = sbatch(cluster, "exit 7")
    failed = state_when(job, ENDED_BADLY)
    assert (failed.state, failed.exit, failed.final) == ("FAILED", "7:0", True)
    (record,) = accounted(job, all_ended)
    assert (record.state, record.exit, record.gpus, record.gpu_seconds) == ("FAILED", "7:0", 0, 0)


def test_jobs_are_cancelled_while_they_run_and_while_they_wait(cluster: Cluster) -> None:
    runs, waits = sbatch(cluster, "sleep 60"), sbatch(cluster, "sleep 60", "--hold")
    ended = sbatch(cluster, "exit 7")
    state_when(runs, frozenset({"RUNNING"}))
    state_when(ended, ENDED_BADLY)
    cancel([runs, waits, ended, "1"])
    cancel([runs])
    assert state_when(runs, ENDED_BADLY | ENDED_WELL).state == "CANCELLED"
    assert state_when(waits, ENDED_BADLY | ENDED_WELL).state == "CANCELLED"
    assert state_when(ended, ENDED_BADLY | ENDED_WELL).state == "FAILED"
    assert until(lambda: find_cause(log_of(cluster, runs)), bool) == "cancelled"
    (never,) = accounted(waits, all_ended)
    assert (never.state, never.started, never.waited, never.seconds) == ("CANCELLED", None, None, 0)


def test_a_requeued_job_is_one_job_of_two_incarnations(cluster: Cluster) -> None:
    job = sbatch(cluster, "sleep 60", "--gpus=1", "--requeue", "--open-mode=append")
    first = state_when(job, frozenset({"RUNNING"}))
    until(lambda: allocations([job]), bool)
    cluster.command("scontrol", "requeue", job)
    requeued = until(lambda: job_states([job])[job], lambda state: state.restarts == 1)
    assert not requeued.final
    second = state_when(job, frozenset({"RUNNING"}))
    assert second.started is not None
    assert first.started is not None
    assert second.started > first.started
    incarnations = accounted(job, lambda records: len(records) == 2 and records[1].state == "RUNNING")
    assert [(record.incarnation, record.state, record.gpus, record.started) for record in incarnations] == [
        (0, "REQUEUED", 1, first.started), (1, "RUNNING", 1, second.started),
    ]  # fmt: skip
    assert "REQUEUED" in NOT_FINAL
    assert incarnations[1].submitted is not None
    assert incarnations[1].eligible is not None
    assert incarnations[1].eligible - incarnations[1].submitted >= 5  # cred_expire
    assert (
        incarnations[1].waited == second.started - incarnations[1].eligible < second.started - incarnations[1].submitted
    )
    assert find_cause(log_of(cluster, job)) == "cancelled: job requeue"


def test_one_task_of_an_array_fails(cluster: Cluster) -> None:
    array = sbatch(cluster, "exit $((SLURM_ARRAY_TASK_ID == 3 ? 4 : 0))", "--array=0-4")
    states = until(
        lambda: job_states([array]), lambda all_: len(all_) == 5 and all(state.final for state in all_.values())
    )
    assert {job: (state.state, state.exit) for job, state in states.items()} == {
        f"{array}_{task}": ("FAILED", "4:0") if task == 3 else ("COMPLETED", "0:0") for task in range(5)
    }
    assert job_states([f"{array}_3"]) == {f"{array}_3": states[f"{array}_3"]}
    records = accounted(array, lambda all_: all_ended(all_) and len(all_) == 5)
    assert [(record.job, record.incarnation) for record in records] == [(f"{array}_{task}", 0) for task in range(5)]


def test_all_tasks_of_a_waiting_array_are_listed(cluster: Cluster) -> None:
    tasks = [
        *range(0, 100, 2),
        101,
        102,
        110,
        200,
        203,
        205,
        207,
        208,
        311,
        313,
        317,
        319,
        323,
    ]  # longer than 64 letters
    array = sbatch(cluster, "true", f"--array={','.join(map(str, tasks))}%4", "--hold")
    names = {f"{array}_{task}" for task in tasks}
    states = job_states([array])
    assert states.keys() == names
    assert {(state.state, state.reason, state.final) for state in states.values()} == {
        ("PENDING", "JobHeldUser", False)
    }
    assert {record.job for record in accounted(array, bool)} == names
    assert {record.job for record in accounted(f"{array}_313", bool)} == {f"{array}_313"}


def test_a_job_over_its_memory_is_told_by_its_log(cluster: Cluster) -> None:
    job = sbatch(cluster, "python3 -c 'import time; x = bytearray(300 << 20); time.sleep(60)'")
    assert state_when(job, ENDED_BADLY).state in {"FAILED", "OUT_OF_MEMORY"}
    assert find_cause(log_of(cluster, job)) == "out of memory"


def test_a_killed_process_is_told_by_its_log(cluster: Cluster) -> None:
    job = sbatch(cluster, "srun bash -c 'kill -9 $$'")
    assert state_when(job, ENDED_BADLY).exit == "137:0"
    assert accounted(job, all_ended)[0].exit == "9:0"
    assert find_cause(log_of(cluster, job)) == "killed (SIGKILL), often for want of memory"


def test_while_the_controller_is_silent_accounting_tells(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, runs = sbatch(cluster, "exit 7", "--nodelist=node1"), sbatch(cluster, "sleep 60")
    state_when(runs, frozenset({"RUNNING"}))
    accounted(failed, all_ended)
    accounted(runs, lambda records: records != [] and records[0].state == "RUNNING")
    monkeypatch.setattr(commands, "TIMEOUT", 2.0)
    kill_controller(cluster)
    try:
        states = job_states([failed, runs])
        assert "squeue did not answer in 2 s; accounting alone was asked" in capsys.readouterr().out
        with pytest.raises(SlurmError, match="scancel did not answer in 2 s"):
            cancel([runs])
    finally:
        cluster.start_controller()
    assert (states[failed].state, states[failed].exit, states[failed].final) == ("FAILED", "7:0", True)
    assert (states[runs].state, states[runs].final) == ("RUNNING", False)


def test_while_accounting_is_silent_the_queue_tells(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = sbatch(cluster, "true", "--array=0-1", "--hold")
    database = dict(cluster.daemons())["slurmdbd"]
    assert database
    monkeypatch.setattr(commands, "TIMEOUT", 2.0)
    os.kill(database, signal.SIGSTOP)
    try:
        states = job_states([waits, "1"])
        assert "sacct did not answer in 2 s; the queue alone was asked" in capsys.readouterr().out
        cancel(list(states))
    finally:
        os.kill(database, signal.SIGCONT)
    assert {job: (state.state, state.final) for job, state in states.items()} == {
        f"{waits}_{task}": ("PENDING", False) for task in range(2)
    }
    ended = until(lambda: job_states([waits]), lambda all_: all(state.final for state in all_.values()))
    assert {state.state for state in ended.values()} == {"CANCELLED"}


def test_a_cluster_without_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Shape(nodes=1, gpus=0, accounting=False, port=PORT + 30)) as plain:
        failed, waits = sbatch(plain, "exit 7"), sbatch(plain, "true", "--array=0-2", "--hold")
        assert state_when(failed, ENDED_BADLY).exit == "7:0"
        assert job_states([failed, waits, "1"]).keys() == {failed, *(f"{waits}_{task}" for task in range(3))}
        assert job_states(["1"]) == {}
        assert allocations([failed]) is None
        kill_controller(plain)
        monkeypatch.setattr(commands, "TIMEOUT", 2.0)
        with pytest.raises(SlurmError, match="squeue did not answer in 2 s"):
            job_states([failed])
