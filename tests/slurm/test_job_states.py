"""States of jobs by what squeue and sacct print, of which each may be silent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.commands import SlurmError
from slurm.states import cancel, job_states
from tests.programs import write_program

SILENT = "echo 'timed out' >&2; exit 1"
WITHOUT_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
RUNS = "12|RUNNING|None|node[1-2]|2|0|100|110|9999|"
WAITS = "13_0|PENDING|Dependency||0|0|100|N/A|N/A|"
ENDED = "14|FAILED|None|node1|0|1792|100|110|120|"
KILLED = "15|FAILED|None|node1|0|11|100|110|120|"
CANCELLED = "16|CANCELLED|None||0|0|100|130|130|"
OTHER = "99|RUNNING|None|node1|0|0|100|110|9999|"
REQUEUED = "12|REQUEUED|0:0|None|100|100|110|120|10|cpu=2|node1"
AGAIN = "12|RUNNING|0:0|Resources|125|125|130|Unknown|5|cpu=2|node2"
WAITED = "13_[0]|PENDING|0:0|Dependency|100|Unknown|Unknown|Unknown|0||None assigned"
FORMER = "12|FAILED|1:0|None|99|99|110|120|10|cpu=2|node1"
FINISHED = "14|FAILED|7:0|None|100|100|110|120|10|cpu=2|node1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Let squeue and sacct do this from here on; scancel notes how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    write_program(tmp_path, "scancel", f"echo $* >> {tmp_path}/cancelled")

    def write(squeue: str, sacct: str) -> None:
        write_program(tmp_path, "squeue", squeue)
        write_program(tmp_path, "sacct", f"echo $* >> {tmp_path}/asked\n{sacct}")

    return write


def lines(*texts: str) -> str:
    return "\n".join(f"echo '{text}'" for text in texts)


def test_the_queue_tells_how_jobs_wait_run_and_ended(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs(lines(RUNS, WAITS, ENDED, KILLED, CANCELLED, OTHER), "")
    states = job_states(["12", "13_0", "14", "15", "16"])
    assert not (tmp_path / "asked").exists()
    assert {job: (x.state, x.final, x.reason, x.nodes, x.restarts, x.exit) for job, x in states.items()} == {
        "12": ("RUNNING", False, "", "node[1-2]", 2, "0:0"),
        "13_0": ("PENDING", False, "Dependency", "", 0, "0:0"),
        "14": ("FAILED", True, "", "node1", 0, "7:0"),
        "15": ("FAILED", True, "", "node1", 0, "0:11"),
        "16": ("CANCELLED", True, "", "", 0, "0:0"),
    }
    assert {job: (x.submitted, x.started, x.ended) for job, x in states.items()} == {
        "12": (100, 110, None), "13_0": (100, None, None), "14": (100, 110, 120), "15": (100, 110, 120),
        "16": (100, None, 130),
    }  # fmt: skip


def test_of_what_left_the_queue_accounting_tells_the_newest_start(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    """One that runs by accounting alone was lost with its controller."""
    programs("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", lines(REQUEUED, AGAIN, FINISHED))
    states = job_states(["12", "14"])
    assert {job: (x.state, x.final, x.restarts, x.nodes, x.reason) for job, x in states.items()} == {
        "12": ("RUNNING", True, 1, "node2", ""), "14": ("FAILED", True, 0, "node1", ""),
    }  # fmt: skip
    programs(lines(RUNS), lines(REQUEUED, AGAIN, FINISHED))
    assert {job: state.restarts for job, state in job_states(["12", "14"]).items()} == {"12": 2, "14": 0}
    assert [line.split("--jobs=")[1] for line in (tmp_path / "asked").read_text().splitlines()] == ["12,14", "14"]


def test_an_earlier_job_of_the_same_id_is_not_ours(programs: Callable[[str, str], None]) -> None:
    """As ids begin again at 1 after the largest."""
    for at, restarts in ((100, 1), (99, 2)):
        programs("", lines(FORMER, REQUEUED, AGAIN))
        states = job_states(["12"], {"12": at + 600})
        assert states["12"].restarts == restarts


def test_a_later_job_of_the_same_id_is_not_ours(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    """As where the cluster was set up anew: ``cancel`` would end it."""
    for at, is_ours in ((-500, True), (-501, False)):
        programs(lines(WAITS, ENDED), "")
        assert list(job_states(["13", "14"], {"13": at, "14": at})) == (["13_0", "14"] if is_ours else [])
        programs("", lines(FINISHED))
        assert list(job_states(["14"], {"14": at})) == (["14"] if is_ours else [])
        programs(lines(RUNS), "")
        assert list(job_states(["12"], {"12": at})) == ["12"]  # put back since: when it first came is not known


def test_while_one_of_both_is_silent_the_other_tells(
    programs: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    programs(SILENT, lines(REQUEUED, AGAIN, WAITED, FINISHED))
    states = job_states(["12", "13", "14"])
    assert {job: (x.state, x.final, x.reason) for job, x in states.items()} == {
        "12": ("RUNNING", False, ""), "13_0": ("PENDING", False, "Dependency"), "14": ("FAILED", True, ""),
    }  # fmt: skip
    assert "squeue said: timed out; accounting alone was asked" in capsys.readouterr().out
    programs(lines(RUNS), SILENT)
    assert list(job_states(["12", "14"])) == ["12"]
    assert "sacct said: timed out; the queue alone was asked" in capsys.readouterr().out
    programs(lines(RUNS), WITHOUT_ACCOUNTING)
    assert list(job_states(["12", "14"])) == ["12"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("sacct", [SILENT, WITHOUT_ACCOUNTING])
def test_where_neither_tells_nothing_is_known(programs: Callable[[str, str], None], sacct: str) -> None:
    programs(SILENT, sacct)
    with pytest.raises(SlurmError, match="timed out"):
        job_states(["12"])


def test_each_job_is_cancelled_once(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("", "")
    cancel([])
    assert not (tmp_path / "cancelled").exists()
    cancel(["13_0", "12", "12"])
    assert (tmp_path / "cancelled").read_text() == "--quiet 12 13_0\n"
