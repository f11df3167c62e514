"""What is said of jobs that wait, and of those that ended."""

from dataclasses import replace

import pytest

from slurm.sentences import describe_end, describe_wait
from slurm.states import JobState


def job(state: str, **values: object) -> JobState:
    empty = JobState("12", state, False, "", "", 3, "0:0", None, None, None)
    return replace(empty, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("JobHeldUser", "as its owner holds it: scontrol release 12"),
        ("DependencyNeverSatisfied", "a job that it needs did not succeed"),
        ("JobArrayTaskLimit", "other tasks of its array"),
        ("QOSMaxJobsPerUserLimit", "a limit of its QOS (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpGRES", "a limit of its account (AssocGrpGRES)"),
        ("ReqNodeNotAvail, UnavailableNodes:node1", "nodes that are down, drained or reserved"),
        ("Something{new}", "as Slurm says: Something{new}"),
        ("", "for its turn"),
    ],
)
def test_why_a_job_waits_is_said_in_words(reason: str, words: str) -> None:
    assert words in describe_wait(job("PENDING", reason=reason))


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("FAILED", "75:0", "its restarts (3) are used up: raise `restarts` or `minutes`"),
        ("FAILED", "137:0", "had a process that was killed"),
        ("FAILED", "9:0", "had a process that was killed"),
        ("FAILED", "7:0", "failed with exit code 7"),
        ("FAILED", "0:11", "failed with signal 11"),
        ("TIMEOUT", "0:15", "met its time limit"),
        ("REVOKED", "0:0", "ended as REVOKED"),
    ],
)
def test_how_a_job_ended_is_said_in_words(state: str, code: str, words: str) -> None:
    assert words in describe_end(job(state, exit=code))


def test_a_job_that_slurm_removes_for_a_dead_dependency_was_not_cancelled_by_its_user() -> None:
    end = describe_end(job("CANCELLED", reason="DependencyNeverSatisfied"))
    assert end == "job 12 was not started, as a job that it needs did not succeed"
