"""What a submission inherits of the environment around it, and how submitted processes end."""

import os
import signal
import time
from pathlib import Path

import pytest

from data_prep.errors import UserError
from slurm.commands import output
from slurm.environment import environment_of_submission
from slurm.profile import Profile, load_profile
from slurm.submit import JobRequest, enqueue, submit
from tests.slurm.test_submit import wait, write_line

OF_SALLOC = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "1024", "SLURM_NTASKS": "1", "SBATCH_TIMELIMIT": "1",
             "SUBMITIT_EXECUTOR": "slurm", "RANK": "3"}  # fmt: skip
SITE = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_RESERVATION": "week", "OMP_NUM_THREADS": "2"}
DEFAULTS = {"SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "short"}


def test_an_interactive_job_around_a_submission_is_hidden_and_the_site_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**OF_SALLOC, **SITE, **DEFAULTS}.items():
        monkeypatch.setenv(name, text)
    before = dict(os.environ)
    with environment_of_submission(Profile(executor="slurm", partition="gpu")):
        inside = dict(os.environ)
    assert dict(os.environ) == before
    assert before.items() - inside.items() == {**OF_SALLOC, "SBATCH_PARTITION": "short"}.items()


def test_options_of_slurms_commands_that_a_user_set_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "short")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    said = output("env").splitlines()
    assert not [line for line in said if line.startswith(("SQUEUE_", "SCANCEL_"))]
    assert "SLURM_TIME_FORMAT=%s" in said


def sleep_long(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.slow
def test_a_local_job_ends_also_where_interrupts_are_ignored(tmp_path: Path) -> None:
    """As in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = submit(load_profile("local"), tmp_path / "logs", 1, sleep_long, tmp_path / "pid")
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        job.cancel()
        wait([job])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_folder_that_no_script_can_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"logs\xff")
    with pytest.raises(UserError, match="has bytes in its name that are no UTF-8"):
        enqueue(Profile(executor="slurm"), folder, write_line, JobRequest("x", [(tmp_path,)]))
    with pytest.raises(UserError, match="has bytes in its name that are no UTF-8"):
        submit(load_profile("local"), folder, 1, write_line, tmp_path)


@pytest.mark.parametrize("name", ["10%j", "dose%x", "a%02b", "back\\slash"])
def test_a_folder_that_slurm_reads_as_another_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="which Slurm reads as something else in names of logs: rename it"):
        enqueue(Profile(executor="slurm"), tmp_path / name / "logs", write_line, JobRequest("x", [(tmp_path,)]))
