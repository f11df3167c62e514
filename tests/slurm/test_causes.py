"""The real words: provoked here, or what Slurm 22.05 wrote when it was made to on a cluster of several nodes."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slurm.causes import find_cause, find_cause_of_start


def fill_the_disk() -> None:
    with Path("/dev/full").open("w") as full:
        full.write("x")


@pytest.mark.parametrize(
    ("fail", "cause"),
    [
        (lambda: bytearray(1 << 62), "out of memory"),
        (lambda: np.ones((1 << 20, 1 << 30)), "out of memory"),
        (lambda: torch.empty(1 << 50), "out of memory"),
        (fill_the_disk, "no space left on device"),
        (lambda: [][0], None),
    ],
)
def test_pythons_words(fail: Callable[[], object], cause: str | None) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each has its own
        fail()
    assert find_cause("".join(traceback.format_exception(caught.value))) == cause


TIME_LIMIT = """\
slurmstepd-node2: error: *** STEP 45813005.0 ON node2 CANCELLED AT 2026-11-24T19:35:19 DUE TO TIME LIMIT ***
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
srun: error: node2: task 0: Terminated
"""
NODE_FAILURE = """\
slurmstepd-node1: error: *** JOB 8 ON node1 CANCELLED AT 2026-11-24T19:40:42 DUE TO NODE FAILURE, SEE SLURMCTLD \
LOG FOR DETAILS ***
srun: error: Node failure on node2
srun: error: node1: task 0: Killed
"""
SAMPLED = """\
slurmstepd-node1: error: StepId=45813002.0 exceeded memory limit (642863104 > 104857600), being killed
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
slurmstepd-node1: error: *** STEP 45813002.0 ON node1 CANCELLED AT 2026-11-24T19:34:07 ***
srun: error: node1: task 0: Killed
"""
PUT_BACK = """\
srun: error: node1: task 0: Killed
srun: launch/slurm: _step_signal: Terminating StepId=52889001.0
srun: Force Terminated StepId=52889001.0
slurmstepd-node1: error: *** JOB 52889001 ON node1 CANCELLED AT 2026-11-29T17:29:44 DUE TO JOB REQUEUE ***
"""
ONE_RANK_KILLED = """\
srun: error: node2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=52889002.0
slurmstepd-node2: error: *** STEP 52889002.0 ON node2 CANCELLED AT 2026-11-29T17:29:46 ***
srun: error: node2: task 0: Terminated
"""
CANCELLED = """\
slurmstepd-node2: error: *** STEP 52889002.0 ON node2 CANCELLED AT 2026-11-29T17:29:46 ***
srun: error: node2: task 0-1: Killed
"""
REQUEUED = "slurmstepd-node1: error: *** JOB 9 ON node1 CANCELLED AT 2026-11-24T19:38:49 DUE TO JOB REQUEUE ***\n"
ASKED = f"""\
2d was asked to stop by SIGUSR2, and saved itself after step 7; this is restart 0 of at most 10
this job goes back to the queue because its time limit came near
{REQUEUED}"""
CGROUP = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n"
PREEMPTED = "slurmstepd-node1: error: *** JOB 9 ON node1 CANCELLED AT 2026-11-24T19:38:49 DUE TO PREEMPTION ***\n"
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB\n"
)

KILLED = "killed (SIGKILL), often for want of memory"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (TIME_LIMIT, "cancelled: time limit"),
        (NODE_FAILURE, "cancelled: node failure"),
        (PREEMPTED, "cancelled: preemption"),
        (SAMPLED, "out of memory"),
        (PUT_BACK, KILLED),
        (ONE_RANK_KILLED, KILLED),
        (ONE_RANK_KILLED.replace("task 1: Killed", "task 1: Exited with exit code 1"), None),
        (CANCELLED, "cancelled"),
        (REQUEUED, "cancelled: job requeue"),
        (ASKED, "stopped because its time limit came near"),
        (CGROUP, "out of memory"),
        ("srun: error: node7: task 3: Out Of Memory\n", "out of memory"),
        (CUDA, "out of GPU memory"),
        ("OSError: [Errno 122] Disk quota exceeded: 'a'\n", "disk quota exceeded"),
        ("RuntimeError: DataLoader worker (pid 41) is killed by signal: Killed. \n", KILLED),
        ("/spool/job8/slurm_script: line 4:    77 Killed                  python\n", KILLED),
        ("Killed time\nstep 10: loss 0.1\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_slurms_words(log: str, cause: str | None) -> None:
    assert find_cause(log) == cause


def test_each_start_of_a_job_has_its_own_cause(tmp_path: Path) -> None:
    """Its log is continued after it was put back; of a start that came to no word nothing is known."""
    starts = (
        "this process was started 12.0\n",
        PUT_BACK,
        "this process was started 12.1\n",
        "x" * 200_000,
        "\n",
        SAMPLED,
    )
    (tmp_path / "12_0_log.out").write_text("".join(starts))
    causes = [find_cause_of_start(tmp_path, "12", restarts) for restarts in range(3)]
    assert causes == [KILLED, "out of memory", None]
    assert find_cause_of_start(tmp_path, "1", 0) is None


def test_who_may_not_read_logs_is_told_no_cause(tmp_path: Path) -> None:
    """As the members of a group for whom a run is shared."""
    (tmp_path / "12_0_log.out").write_text(f"this process was started 12.0\n{PUT_BACK}")
    user = os.geteuid()
    tmp_path.chmod(0)
    try:
        if not user:
            os.seteuid(65534)
        assert find_cause_of_start(tmp_path, "12", 0) is None
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
