import time
from pathlib import Path

import pytest

from data_prep.errors import UserError
from slurm.profile import Profile, load_profile
from slurm.submit import Job, submit, task


def write_rank(folder: Path) -> None:
    rank, size, local = task()
    (folder / f"{rank}").write_text(f"{size} {local}")


def fail() -> None:
    raise RuntimeError("the job's own words")


def write_line(path: Path) -> None:
    path.write_text("done")


def wait(jobs: list[Job]) -> None:
    deadline = time.monotonic() + 60
    while not all(job.has_ended() for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_local_executor_runs_every_task(tmp_path: Path) -> None:
    job = submit(load_profile("local"), tmp_path / "logs", 3, write_rank, tmp_path)
    wait([job])
    assert job.fault() == ""
    assert {path.name: path.read_text() for path in tmp_path.glob("[0-9]")} == {"0": "3 0", "1": "3 1", "2": "3 2"}


def test_a_failed_job_says_its_own_words(tmp_path: Path) -> None:
    job = submit(load_profile("local"), tmp_path / "logs", 1, fail)
    wait([job])
    assert job.fault() == "the job's own words"


def test_the_debug_executor_runs_here_and_only_one_task(tmp_path: Path) -> None:
    debug = load_profile("debug")
    job = submit(debug, tmp_path / "logs", 1, write_line, tmp_path / "line")
    wait([job])
    assert (tmp_path / "line").read_text() == "done"
    with pytest.raises(UserError, match="2 ranks were asked for, but the debug executor has one process"):
        submit(debug, tmp_path / "logs", 2, write_rank, tmp_path)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("executor: local\nminutes: 5\n")
    assert load_profile(str(path)) == Profile(executor="local", minutes=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("executor: moon", r"mine\.yaml: executor: Input should be 'local', 'debug' or 'slurm' \(got 'moon'\)"),
        ("executor: local\ngpu: 1", r"mine\.yaml: gpu is not a setting; valid here: executor, minutes, gpus_a_task"),
        ("executor: [", r"mine\.yaml is no valid YAML"),
    ],
)
def test_wrong_profiles_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_profile(str(path))
