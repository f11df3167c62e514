"""The real words: provoked here, or what Slurm 22.05 wrote when it was made to on a cluster of several nodes."""

import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slurm.causes import find_cause


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
