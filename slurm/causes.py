"""Causes of failures, recognised in the logs of jobs."""

import re
from pathlib import Path

from slurm.calls import STARTED
from slurm.job import BACK_TO_QUEUE

_MEMORY = (
    r"exceeded memory limit|oom[-_]kill|: task \S+: Out Of Memory$|^MemoryError|_ArrayMemoryError"
    r"|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
)
_CANCELLED = r"\*\*\* .+ CANCELLED AT "
_KILLED = r": task \S+: Killed$|: line \d+: +\d+ Killed |killed by signal: Killed|<Signals\.SIGKILL: 9>"
# the first that matches counts: a cause stands before its consequences
_CAUSES = tuple(
    (re.compile(pattern, re.MULTILINE), cause)
    for pattern, cause in (
        (r"the restarts of this job \((?P<number>\d+ of \d+)\) are used up", "restarts used up: {number}"),
        (rf"{BACK_TO_QUEUE} because (?P<reason>.+)", "stopped because {reason}"),
        (r"CUDA out of memory", "out of GPU memory"),
        (_MEMORY, "out of memory"),
        (r"No space left on device", "no space left on device"),
        (r"Disk quota exceeded", "disk quota exceeded"),
        (rf"{_CANCELLED}\S+ DUE TO (?!JOB REQUEUE)(?P<reason>[A-Z][A-Z ]+[A-Z])", "cancelled: {reason}"),
    )
)
# of these the first in the log: what fails or is killed by itself, Slurm cancels then, and it kills what is cancelled
_ENDS = re.compile(
    rf"(?P<killed>{_KILLED})|(?P<failed>: task \S+: Exited with exit code )"
    rf"|(?P<cancelled>{_CANCELLED})(?P<requeued>\S+ DUE TO JOB REQUEUE)?",
    re.MULTILINE,
)
_ENDINGS = {
    "killed": "killed (SIGKILL), often for want of memory", "cancelled": "cancelled",
    "requeued": "cancelled: job requeue",
}  # fmt: skip
_TAIL = 100_000  # last characters of a start's log, in which its end is told


def find_cause(log_text: str) -> str | None:
    """Name why a job ended badly: "out of memory", "cancelled: time limit" ...; None if its log holds no known message.

    Args:
        log_text: stdout and stderr of one incarnation; Slurm writes its own messages to stderr.
    """
    for pattern, cause in _CAUSES:
        if match := pattern.search(log_text):
            return cause.format(**{name: text.lower() for name, text in match.groupdict().items()})
    end = _ENDS.search(log_text)
    return _ENDINGS.get(end.lastgroup or "") if end else None


def find_cause_of_start(folder: Path, job: str, restarts: int) -> str | None:
    """Name why a job ended badly after so many restarts, by its log in ``folder``; None if that does not tell.

    Nor does it tell who may read the run, but not its logs.
    """
    try:
        text = (folder / f"{job}_0_log.out").read_text(errors="replace")
    except (FileNotFoundError, PermissionError):
        return None
    _, start, following = text.rpartition(f"{STARTED} {job}.{restarts}\n")
    return find_cause(following.partition(f"\n{STARTED} ")[0][-_TAIL:]) if start else None
