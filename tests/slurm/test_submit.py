import os
import pickle
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from slurm.commands import SlurmError
from slurm.job import SIGNAL_SECONDS
from slurm.partitions import check_partitions
from slurm.profile import Profile, load_profile
from slurm.submit import Job, JobRequest, enqueue, submit, task
from tests.programs import write_program


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


def write_time_limit(path: Path) -> None:
    path.write_text(os.environ["SUBMITIT_LOCAL_TIMEOUT_S"])


def test_a_local_job_has_the_time_limit_of_its_profile(tmp_path: Path) -> None:
    """submitit's own is two minutes."""
    wait([submit(Profile(executor="local", minutes=7), tmp_path / "logs", 1, write_time_limit, tmp_path / "limit")])
    assert (tmp_path / "limit").read_text() == "420"


def test_the_debug_executor_runs_here_and_only_one_task(tmp_path: Path) -> None:
    debug = load_profile("debug")
    job = submit(debug, tmp_path / "logs", 1, write_line, tmp_path / "line")
    wait([job])
    assert ((tmp_path / "line").read_text(), job.fault()) == ("done", "")
    with pytest.raises(UserError, match="2 ranks were asked for, but the debug executor has one process"):
        submit(debug, tmp_path / "logs", 2, write_rank, tmp_path)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("executor: local\nminutes: 5\naccount: abc@v100\n")  # as IDRIS names accounts
    assert load_profile(str(path)) == Profile(executor="local", minutes=5, account="abc@v100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("executor: moon", r"mine\.yaml: executor: Input should be 'local', 'debug' or 'slurm' \(got 'moon'\)"),
        ("executor: local\ngpu: 1", r"mine\.yaml: gpu is not a setting; valid here: executor, minutes, gpus_a_task"),
        (
            "executor: slurm\naccount: my account",
            r"mine\.yaml: account: Input should be letters from a to z or A to Z, digits and any of _ \. , @ -, the",
        ),
        (
            "executor: slurm\nconstraint: a b",
            r"mine\.yaml: constraint: Input should be letters .*, digits and any of _ \. , : & \| ! \* \( \) \[ \] -",
        ),
        (
            "executor: slurm\nenvironment: {1A: b}",
            r"mine\.yaml: environment\.1A: Input should be letters .*, the first no digit \(got '1A'\)",
        ),
        ("executor: [", r"mine\.yaml is no valid YAML"),
        ("executor: slurm\nteraflops: .inf", r"mine\.yaml: teraflops: Input should be a finite number \(got inf\)"),
        ("executor: slurm\nminutes: 1:30:00", r"mine\.yaml: minutes: Input should be a whole number \(got '1:30:00'\)"),
        ("executor: slurm\nrestarts: false", r"mine\.yaml: restarts: Input should be a number \(got false\)"),
        ("executor: slurm\naccount: 1234", r"mine\.yaml: account: Input should be text, a number in quotes \(got 1234"),
        (
            "executor: slurm\nworker_constraint: fast",
            r"mine\.yaml: .*worker_constraint fast is of the nodes of worker_partition, which is not set: set it, or",
        ),
        (
            "executor: slurm\nminutes: 2",
            r"mine\.yaml: .*signal_seconds 90 is too near to the time limit of 120 seconds \(minutes\): each start",
        ),
    ],
)
def test_wrong_profiles_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_profile(str(path))


Headers = Callable[[Profile, JobRequest], dict[str, str]]


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Headers:
    """Submit to programs that keep the script; return its options, and sbatch's defaults that go before them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in {
        "srun": "",
        "sbatch": f'(cat "$1"; echo; env) >{programs}/script; echo job 7',
    }.items():
        write_program(programs, name, script)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def submitted(profile: Profile, request: JobRequest) -> dict[str, str]:
        assert enqueue(profile, tmp_path / "logs", write_line, request) == ["7"]
        lines = (programs / "script").read_text()
        return dict(re.findall(r"^(?:#SBATCH --|(?=SBATCH_))([\w-]+)=(.*)", lines, re.MULTILINE))

    return submitted


FIVE = JobRequest("prepare", [(str(number),) for number in range(5)])


def calls_in(folder: Path) -> list[list[tuple[str]]]:
    """Return the arguments in each file of calls."""
    return sorted(pickle.loads(path.read_bytes())[2] for path in folder.glob("*.calls"))


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ("MaxArraySize = 4", [4, 1]),
        ("MaxArraySize = 9\nSchedulerParameters = a=1,max_array_tasks=2,b", [2, 2, 1]),
        ("MaxArraySize = 0", [1, 1, 1, 1, 1]),
        ("", [5]),
    ],
)
def test_arrays_are_as_long_as_the_site_takes_them(
    headers: Headers, limits: str, sizes: list[int], tmp_path: Path
) -> None:
    write_program(tmp_path / "programs", "scontrol", f"echo '{limits}'")
    assert enqueue(Profile(executor="slurm"), tmp_path / "logs", write_line, FIVE) == ["7"] * len(sizes)
    calls = calls_in(tmp_path / "logs")
    assert [len(part) for part in calls] == sizes
    assert [call for part in calls for call in part] == list(FIVE.calls)


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        ("echo Invalid qos >&2; exit 1", UserError, "Slurm took no job of this profile: .*Invalid qos"),
        ("echo Unable to contact slurm controller >&2; exit 1", SlurmError, "Unable to contact slurm controller"),
    ],
)
def test_arrays_before_one_that_is_refused_are_taken_back(
    headers: Headers, tmp_path: Path, refusal: str, error: type[Exception], words: str
) -> None:
    programs = tmp_path / "programs"
    accepted = f"[ -e {programs}/first ] || {{ touch {programs}/first; echo job 7; exit; }}"
    write_program(programs, "sbatch", f"{accepted}\n{refusal}")
    write_program(programs, "scontrol", "echo MaxArraySize = 2")
    write_program(programs, "scancel", f"echo $* >{programs}/ended")
    with pytest.raises(error, match=words):
        enqueue(Profile(executor="slurm"), tmp_path / "logs", write_line, FIVE)
    assert (programs / "ended").read_text() == "--quiet 7\n"
    assert calls_in(tmp_path / "logs") == [list(FIVE.calls[:2])]  # a job whose answer was lost finds no call


def test_a_machine_with_srun_alone_is_told_what_is_missing(
    headers: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    (programs / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SlurmError, match="sbatch is not installed here"):
        enqueue(Profile(executor="slurm"), tmp_path / "logs", write_line, JobRequest("prepare", [("a",)]))


@pytest.mark.parametrize(
    ("task_of_array", "requeued"),
    [({}, "12"), ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3")],
)
@pytest.mark.parametrize(("code", "restarts"), [(137, 2), (137, 3), (1, 0)])
@pytest.mark.parametrize("setup", [(), ("set -euo pipefail",)])
def test_a_job_that_was_killed_puts_itself_back_and_no_other_task(
    headers: Headers, tmp_path: Path, task_of_array: dict[str, str], requeued: str, code: int, restarts: int,
    setup: tuple[str, ...],
) -> None:  # fmt: skip
    """An array's id is that of one of its tasks too, and would put all of them back."""
    programs = tmp_path / "programs"
    headers(Profile(executor="slurm", restarts=3, setup=setup), JobRequest("prepare", [("a",)]))
    for name, script in {"srun": f"exit {code}", "scontrol": f"echo $* > {programs}/put-back"}.items():
        write_program(programs, name, script)
    job = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts), **task_of_array}
    ended = subprocess.run(["bash", programs / "script"], env={**os.environ, **job}, capture_output=True, check=False)
    assert ended.returncode == code
    said = (programs / "put-back").read_text() if (programs / "put-back").exists() else ""
    assert said == (f"requeue {requeued}\n" if (code, restarts) == (137, 2) else "")


def test_processes_know_how_long_before_their_time_limit_they_are_asked_to_stop(
    headers: Headers, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    headers(Profile(executor="slurm", signal_seconds=1800), JobRequest("prepare", [("a",)]))
    write_program(programs, "srun", f"echo ${SIGNAL_SECONDS}")
    ended = subprocess.run(["bash", programs / "script"], capture_output=True, text=True, check=True)
    assert ended.stdout.split()[-1] == "1800"


TRAINING = JobRequest("study-3d", [("a",)], 4, ranks=True)


@pytest.mark.parametrize(("ranks", "nodes", "ranks_a_node"), [(3, 1, 3), (4, 1, 4), (8, 2, 4)])
def test_a_training_asks_for_whole_nodes(headers: Headers, ranks: int, nodes: int, ranks_a_node: int) -> None:
    profile = Profile(
        executor="slurm", tasks_a_node=4, gpus_a_task=2, cpus_a_task=5, memory_a_cpu=1000, minutes=30, signal_seconds=45
    )
    options = headers(profile, JobRequest("study-3d", [("a",)], ranks, ranks=True, dependency="afterok:3"))
    asked = {
        "job-name": "study-3d", "time": "30", "nodes": nodes, "ntasks-per-node": ranks_a_node, "cpus-per-task": 5,
        "gpus-per-node": 2 * ranks_a_node, "mem-per-cpu": "1000M", "signal": "USR2@45", "dependency": "afterok:3",
        "kill-on-invalid-dep": "yes",
    }  # fmt: skip
    assert {name: str(value) for name, value in asked.items()}.items() <= options.items()


JUDGING = JobRequest("evaluate", [("a",)], uses_gpu=True)
PREPARATION = JobRequest("prepare", [("a",)])


def let_sinfo_say(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    write_program(folder, "sinfo", script)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_hidden_partition_takes_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root sees it always; others see it only if they ask."""
    lines = "gpu*|up|infinite|4|8|64000|gpu:4", "private|up|infinite|4|8|64000|gpu:4"
    let_sinfo_say(tmp_path, monkeypatch, f"echo '{lines[0]}'\n[ $1 = --all ] && echo '{lines[1]}' || true")
    check_partitions(Profile(executor="slurm", partition="private"), [TRAINING])
    with pytest.raises(UserError, match="partition secret is not one of: gpu, private"):
        check_partitions(Profile(executor="slurm", partition="secret"), [TRAINING])


def test_cores_are_not_read_in_thousands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sinfo says 2K of 2048, unless it is asked not to; it converts no other number."""
    line = "gpu*|up|infinite|1024|{}|16777216|gpu:a100:4"
    convert = f"case $* in *--noconvert*) echo '{line.format(2048)}';; *) echo '{line.format('2K')}';; esac"
    let_sinfo_say(tmp_path, monkeypatch, convert)
    check_partitions(Profile(executor="slurm", cpus_a_worker=2048), [PREPARATION])
    with pytest.raises(UserError, match="asked for: 2,049 cores a node; those of gpu have 2048"):
        check_partitions(Profile(executor="slurm", cpus_a_worker=2049), [PREPARATION])


SINFO = """gpu*|up|1-12:30:00|3|8|64000|gpu:a100:4(S:0-1),mps:400
gpu*|up|1-12:30:00|1|16|32000|gpu:a100:2(S:0,2-3),gpu:v100:1(S:1)
cpu|up|30:00|4|2+|8192+|(null)
old|drain|infinite|9|64|512000|(null)"""
SMALL = {"tasks_a_node": 4, "gpus_a_task": 1, "memory_a_cpu": 4096}


@pytest.mark.parametrize(
    ("changes", "jobs", "message"),
    [
        ({}, [TRAINING, JUDGING, PREPARATION], ""),
        ({"minutes": 36 * 60 + 30}, [TRAINING], ""),
        ({"minutes": 36 * 60 + 31}, [TRAINING], "minutes 2191 is over the time limit of partition gpu, 2190"),
        ({"partition": "cpu", "minutes": 31}, [PREPARATION], "minutes 31 is over the time limit of partition cpu, 30"),
        ({"partition": "old"}, [PREPARATION], "partition old takes no jobs at the moment: its state is drain"),
        ({"partition": "old,gpu"}, [TRAINING], ""),
        ({"gpus_a_task": 2}, [PREPARATION, JUDGING], ""),
        ({"gpus_a_task": 2}, [TRAINING], "asked for: 8 GPUs a node; those of gpu have 4"),
        ({"cpus_a_task": 5}, [TRAINING], "asked for: 20 cores a node; those of gpu have 16"),
        (
            {"cpus_a_task": 3},
            [TRAINING],
            "asked for: 1 node of 12 cores, 49152 MiB and 4 GPUs; partition gpu has 0",
        ),
        ({"tasks_a_node": 1, "gpus_a_task": 3}, [TRAINING], ""),
        ({"tasks_a_node": 1, "gpus_a_task": 4}, [TRAINING], "asked for: 4 nodes of 1 core, .*; partition gpu has 3"),
        ({"memory_a_cpu": 16001}, [TRAINING], r"64004 MiB \(cores x memory_a_cpu\) a node; those of gpu have 64000"),
        ({"cpus_a_worker": 2, "worker_partition": "cpu", "minutes": 30}, [TRAINING, JUDGING, PREPARATION], ""),
        ({"cpus_a_worker": 3, "worker_partition": "cpu", "minutes": 30}, [JUDGING], ""),
        ({"cpus_a_worker": 3, "worker_partition": "cpu", "minutes": 30}, [PREPARATION], "those of cpu have 2"),
        ({"worker_partition": "cpu", "minutes": 30, "gpus_a_task": 0, "cpus_a_worker": 3}, [JUDGING], "of cpu have 2"),
        ({"tasks_a_node": 3}, [PREPARATION], ""),
    ],
)
def test_demands_are_those_of_the_jobs_that_are_submitted(
    changes: dict[str, Any], jobs: list[JobRequest], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_sinfo_say(tmp_path, monkeypatch, f"cat <<END\n{SINFO}\nEND")
    profile = Profile.model_validate({"executor": "slurm", **SMALL, **changes})
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_partitions(profile, jobs)


@pytest.mark.parametrize(
    ("request_", "partition", "constraint", "gpus"),
    [(TRAINING, "gpu", "a100", "4"), (JUDGING, "gpu", "a100", "1"), (PREPARATION, "cpu", None, None)],
)
def test_the_shipped_profile_asks_gpu_nodes_alone_for_their_feature(
    request_: JobRequest, partition: str, constraint: str | None, gpus: str | None,
    headers: Callable[[Profile, JobRequest], dict[str, str]],
) -> None:  # fmt: skip
    options = headers(load_profile("a100"), request_)
    assert (options["partition"], options.get("constraint"), options.get("gpus-per-node")) == (
        partition, constraint, gpus,
    )  # fmt: skip
    assert options["account"] == "my-project"


@pytest.mark.parametrize(
    ("settings", "training", "preparation"),
    [
        ({"constraint": "a100"}, "a100", "a100"),
        ({"constraint": "a100", "worker_partition": "cpu"}, "a100", None),
        ({"constraint": "a100", "worker_partition": "cpu", "worker_constraint": "avx"}, "a100", "avx"),
        ({"worker_partition": "cpu", "worker_constraint": "avx"}, None, "avx"),
    ],
)
def test_each_partition_has_its_own_constraint(
    settings: dict[str, str], training: str | None, preparation: str | None,
    headers: Callable[[Profile, JobRequest], dict[str, str]],
) -> None:  # fmt: skip
    profile = Profile.model_validate({"executor": "slurm", **settings})
    assert [headers(profile, request).get("constraint") for request in (TRAINING, PREPARATION)] == [
        training, preparation,
    ]  # fmt: skip


def test_a_users_own_partition_and_constraint_are_not_those_of_another_worker_partition(
    monkeypatch: pytest.MonkeyPatch, headers: Callable[[Profile, JobRequest], dict[str, str]]
) -> None:
    defaults = {"SBATCH_PARTITION": "gpu", "SBATCH_CONSTRAINT": "a100"}
    for name, text in defaults.items():
        monkeypatch.setenv(name, text)
    profile = Profile(executor="slurm", worker_partition="cpu")
    assert defaults.items() <= headers(profile, TRAINING).items()
    assert defaults.keys().isdisjoint(headers(profile, PREPARATION))
