"""What Slurm's words for a job mean, for people: why it waits, and how it ended."""

from slurm.job import USED_UP
from slurm.states import JobState

_WAITS = {
    "Resources": "for free nodes",
    "Priority": "behind jobs of higher priority",
    "Dependency": "for the jobs that it needs",
    "DependencyNeverSatisfied": "for ever, as a job that it needs did not succeed: cancel the run and submit it again",
    "BeginTime": "for its turn after it was put back",
    "JobArrayTaskLimit": "for other tasks of its array, which runs only so many at a time",
    "JobHeldUser": "as its owner holds it: scontrol release {job}",
    "JobHeldAdmin": "as an administrator holds it",
    "job requeued in held state": "as it was put back and held: scontrol release {job}",
    "launch failed requeued held": "as it could not be started and is held: scontrol release {job}",
    "PartitionDown": "as its partition is down",
    "PartitionInactive": "as its partition is inactive",
    "PartitionTimeLimit": "as its time limit is longer than its partition allows: lower `minutes` in the profile",
    "PartitionNodeLimit": "as it asks for more nodes than its partition allows",
    "BadConstraints": "as no node has what it asks for",
    "Licenses": "for a licence",
    "Reservation": "for its reservation",
    "Cleaning": "until its last start is cleaned up",
    "AccountNotAllowed": "as its account may not use this partition",
    "InvalidAccount": "as its account is not valid",
    "InvalidQOS": "as its QOS is not valid",
}
_WAIT_BEGINNINGS = {
    "QOS": "for a limit of its QOS ({reason})",
    "Assoc": "for a limit of its account ({reason})",
    "ReqNodeNotAvail": "for nodes that are down, drained or reserved ({reason})",
    "Nodes required for job are DOWN": "for nodes that are down, drained or reserved",
    "Max": "for a limit of this cluster ({reason})",
}
_ENDS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "met its time limit",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "lost its nodes to another job",
    "BOOT_FAIL": "had a node that did not boot",
    "DEADLINE": "met its deadline",
    "LAUNCH_FAILED": "could not be started",
}
_KILLED = ("137:0", "9:0")  # exit code of a job of which a process got SIGKILL; sacct takes 128 away from it


def describe_wait(state: JobState) -> str:
    """Say for what a job waits."""
    if state.reason in _WAITS:
        return _WAITS[state.reason].format(job=state.job)
    wait = next((text for start, text in _WAIT_BEGINNINGS.items() if state.reason.startswith(start)), "")
    return wait.format(reason=state.reason) or (f"as Slurm says: {state.reason}" if state.reason else "for its turn")


def describe_end(state: JobState, cause: str | None = None) -> str:
    """Say how a job ended, with its id; ``cause``: that its log tells."""
    if state.exit == f"{USED_UP}:0":
        return (
            f"job {state.job} was stopped and its restarts ({state.restarts}) are used up: raise `restarts` or "
            "`minutes` in the profile, and submit again"
        )
    if state.reason == "DependencyNeverSatisfied":
        return f"job {state.job} was not started, as a job that it needs did not succeed"
    if state.state == "FAILED" and cause:
        return f"job {state.job} failed: {cause}"
    if state.exit in _KILLED:
        return f"job {state.job} had a process that was killed, often for want of memory"
    if state.state == "FAILED":
        code, _, number = state.exit.partition(":")
        return f"job {state.job} failed with {f'exit code {code}' if number == '0' else f'signal {number}'}"
    return f"job {state.job} {_ENDS.get(state.state, f'ended as {state.state}')}"
