"""Trainings of one study on a real Slurm, each disturbed in its own way: all end as if nothing had happened.

They are disturbed at the same time, as each waits most of its time for Slurm. A disturbance that fails, fails its test.
They are twins, one network under several ids, so that one training of this machine is what all of them must equal.
"""

import copy
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slurm.devcluster import Cluster, Shape
from slurm.states import job_states
from tests.shared_runs import fill_once
from tests.slurm.clusters import PORT, await_saved_state, kill_controller, running
from tests.slurm.queued import WHOLE, Queued, accounted, bytes_of, changed, without
from tests.toy_runs import DDNET, Toy, report_table, wait_for, whole_run

pytestmark = [pytest.mark.slurm, pytest.mark.whole]

STEPS = 28  # of each training but the long one
SPARE = "node3"  # in place of the node that is killed
Disturb = Callable[[Queued, str], None]
STUDY: dict[str, Any] = {"ranks": [2], "training": {"epochs": 2, "samples": 28, "checkpoint_steps": 4}}
UNDISTURBED = changed(DDNET, **STUDY, also=[{"epochs": 12}])  # a small network would be over before it is disturbed
TWINS = [f"twin{number}" for number in range(7)]
TWIN = r"^twin\d"
TABLES = ("quality.csv", "cells.csv")
LONG = "twin0-s16-r2-e12"
DISTURBED = changed(
    DDNET, **STUDY, network=TWINS, also=[{"network": TWINS[:1], "epochs": 12}],
    order_seed=6,  # the long one comes second
)  # fmt: skip
DISTURBED["networks"] |= {twin: copy.deepcopy(DISTURBED["networks"]["3d"]) for twin in TWINS}
del DISTURBED["networks"]["3d"]


def restart_controller(toy: Queued, cell: str) -> None:
    await_saved_state(toy.cluster, toy.job("study", cell))
    kill_controller(toy.cluster)
    time.sleep(1)
    toy.cluster.start_controller()


def restart_slurmd(toy: Queued, cell: str) -> None:
    (node, *_) = toy.nodes(toy.job("study", cell))
    toy.cluster.stop_node(node, hard=False)
    time.sleep(1)
    toy.cluster.start_node(node)


def requeue(toy: Queued, cell: str) -> None:
    toy.cluster.command("scontrol", "requeue", toy.job("study", cell))


def ask_to_stop(toy: Queued, cell: str) -> None:
    """As Slurm does before the time limit."""
    toy.cluster.command("scancel", "--signal=USR2", toy.job("study", cell))
    toy.await_log("asked to stop, and saved itself", cell, 60)


def kill_node(toy: Queued, cell: str) -> None:
    job = toy.job("study", cell)
    (node, *_) = toy.nodes(job)
    toy.cluster.stop_node(node, hard=True)
    resume(toy.cluster, SPARE)
    wait_for(lambda: toy.nodes(job) not in ([], [node]), 300, pause=0.2)


def kill_rank(toy: Queued, cell: str) -> None:
    """By SIGKILL, as the kernel does it where memory ends."""
    rank_1 = {b"SLURM_PROCID=1", b"SLURM_JOB_ID=" + toy.job("study", cell).encode()}
    (pid, *_) = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"slurm.calls" in bytes_of(path) and str(toy.run_folder).encode() in bytes_of(path)
        and rank_1 <= set(bytes_of(path.with_name("environ")).split(b"\0"))
    ]  # fmt: skip
    os.kill(pid, signal.SIGKILL)


def preempt(toy: Queued, cell: str) -> None:
    """By a job of a partition of higher priority."""
    start = time.monotonic()
    (node, *_) = toy.nodes(toy.job("study", cell))
    toy.cluster.command("sbatch", "-p", "debug", "-w", node, "-c2", "-t1", "-o", "/dev/null", "--wrap", "sleep 5")
    toy.await_log("asked to stop, and saved itself", cell, 60)
    print(f"preempted: saved after {time.monotonic() - start:.1f} s")


DISTURBANCES: dict[Disturb, bool] = {  # and whether the job starts again
    restart_controller: False,  # by itself, before all others begin
    kill_node: True,
    restart_slurmd: False,
    preempt: True,
    kill_rank: True,
    ask_to_stop: True,
    requeue: True,
}


def disturb_one(toy: Queued, cells: Mapping[Disturb, str], disturb: Disturb) -> None:
    cell = cells[disturb]
    toy.await_steps(cell, 6)
    start = time.monotonic()
    disturb(toy, cell)
    before = toy.steps(cell)
    toy.await_steps(cell, min(before + 1, STEPS))
    print(f"{disturb.__name__}: {time.monotonic() - start:.1f} s to the first new step")


def meet_the_time_limit(toy: Queued) -> None:
    """Meet the limit of a minute twice; then it is raised, as by an administrator, so that slow machines end, too."""
    job = toy.job("study", LONG)

    def is_back() -> bool:
        state = job_states([job])[job]
        return state.final or (state.restarts > 1 and state.state in ("PENDING", "RUNNING"))

    wait_for(is_back, WHOLE, pause=0.5)
    if not job_states([job])[job].final:
        set_time_limit(toy, job, 30)


def set_time_limit(toy: Queued, job: str, minutes: int) -> None:
    toy.cluster.command("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")


@dataclass
class Disturbed:
    """The run after its end: the cell of each disturbance, what became of the disturbance, and what ``status`` said."""

    toy: Queued
    cells: Mapping[Disturb, str]
    disturbances: dict[str, Future[None]]
    status: list[str]

    def line(self, cell: str) -> str:
        (line,) = [line for line in self.status if line.split()[:2] == ["study", cell]]
        return line


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes and a spare one: the ranks of more trainings would starve Slurm's processes on two cores."""
    with running(Shape(nodes=3, cpus=2, gpus=4, port=PORT + 30)) as up:
        yield up


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """One of the twins and the long training on this machine."""
    folder = fill_once(tmp_path_factory, "disturbed", lambda folder: whole_run(folder, UNDISTURBED))
    return Toy(folder, UNDISTURBED)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, locally: Toy, cluster: Cluster) -> Disturbed:
    folder, trainings = tmp_path_factory.mktemp("cluster"), sorted(locally.losses().keys() - {"2d"})
    toy = without(trainings, locally, folder, cluster, DISTURBED, partition="scavenge", minutes=1, signal_seconds=20)
    drain(cluster, f"node2,{SPARE}")
    cells = submit_all(toy)
    with ThreadPoolExecutor(len(cells) + 1) as pool:
        first = pool.submit(disturb_one, toy, cells, restart_controller)
        toy.await_steps(cells[restart_controller], 1)
        drain(cluster, "node1")  # no other job starts: a controller that is killed forgets what has just happened
        wait([first])
        resume(cluster, "node1,node2")
        disturbances = {cells[disturb]: pool.submit(disturb_one, toy, cells, disturb) for disturb in list(cells)[1:]}
        disturbances |= {cells[restart_controller]: first, LONG: pool.submit(meet_the_time_limit, toy)}
    toy.await_end()
    return Disturbed(toy, cells, disturbances, toy.tell("status").splitlines())


def submit_all(toy: Queued) -> Mapping[Disturb, str]:
    """Submit with a time limit of a minute, which holds for the long training alone; return who is disturbed how."""
    toy.submit()
    for job in toy.queued() - {toy.job("study", LONG)}:
        set_time_limit(toy, job, 30)
    in_order = [submission["items"][0] for submission in toy.submissions() if submission["stage"] == "study"]
    return dict(zip(DISTURBANCES, (cell for cell in in_order if cell != LONG), strict=True))


def drain(cluster: Cluster, nodes: str) -> None:
    cluster.command("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=one job alone")


def resume(cluster: Cluster, nodes: str) -> None:
    """Let jobs start again; a new controller that does not know the nodes yet says that the state is invalid."""
    command = ["scontrol", "update", f"nodename={nodes}", "state=resume"]
    subprocess.run(command, capture_output=True, check=False)
    assert "drain" not in cluster.command("sinfo", "-h", "-n", nodes, "-o", "%T")


def table_of(toy: Toy, name: str) -> pd.DataFrame:
    """Read a table in which twins are named as the one network that they are, without digests of the names."""
    table = report_table(toy, name).drop(columns=["alike", "alike_but_transfer"], errors="ignore")
    return table.replace(TWIN, "3d", regex=True)


def assert_as_undisturbed(toy: Toy, locally: Toy, cell: str) -> None:
    """Compare a training's losses and its rows of the report with those of its twin on this machine."""
    twin = re.sub(TWIN, "3d", cell)
    assert toy.losses()[cell] == locally.losses()[twin]
    for name in TABLES:
        ours, theirs = table_of(toy, name), table_of(locally, name)
        row = ours[report_table(toy, name).iloc[:, 0] == cell]
        assert len(row) == 1
        pd.testing.assert_frame_equal(row, theirs[theirs.iloc[:, 0] == twin].set_index(row.index))


@pytest.mark.parametrize(("disturb", "restarts"), DISTURBANCES.items())
def test_a_disturbed_training_ends_as_an_undisturbed_one(
    disturbed: Disturbed, locally: Toy, disturb: Disturb, restarts: bool
) -> None:
    cell = disturbed.cells[disturb]
    disturbed.disturbances[cell].result()
    assert ("requeued 1 x" in disturbed.line(cell)) == restarts
    assert ("requeued" in disturbed.line(cell)) == restarts
    assert accounted(disturbed.toy, cell).loc[f"study/{cell}", "starts"] == 1 + restarts
    assert_as_undisturbed(disturbed.toy, locally, cell)


def test_a_training_longer_than_its_time_limit_goes_on_in_the_queue(disturbed: Disturbed, locally: Toy) -> None:
    disturbed.disturbances[LONG].result()
    assert "saved itself after step" in disturbed.toy.log("study", LONG)
    starts = int(accounted(disturbed.toy, LONG)["starts"][f"study/{LONG}"])
    assert starts > 1
    assert f"requeued {starts - 1} x" in disturbed.line(LONG)
    assert_as_undisturbed(disturbed.toy, locally, LONG)


def test_the_report_of_disturbed_trainings_is_that_of_undisturbed_ones(disturbed: Disturbed, locally: Toy) -> None:
    accounted(disturbed.toy)
    for name in TABLES:
        table = table_of(disturbed.toy, name).drop_duplicates(ignore_index=True)
        pd.testing.assert_frame_equal(table, table_of(locally, name))
    cells = pd.read_csv(disturbed.toy.run_folder / "report" / "cells.csv")
    assert cells["parameters"].tolist() == [566_451, *[2_619_155] * (len(cells) - 1)]
