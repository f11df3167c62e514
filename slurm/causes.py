"""Causes of failures, recognised in the logs of jobs."""

import re

_MEMORY = (
    r"exceeded memory limit|oom[-_]kill|: task \S+: Out Of Memory$|^MemoryError|_ArrayMemoryError"
    r"|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
)
_KILLED = r": task \S+: Killed$|: line \d+: +\d+ Killed |killed by signal: Killed|<Signals\.SIGKILL: 9>"
# the first that matches counts: a cause stands before its consequences
_CAUSES = tuple(
    (re.compile(pattern, re.MULTILINE), cause)
    for pattern, cause in (
        (r"the restarts of this job \((?P<number>\d+ of \d+)\) are used up", "restarts used up: {number}"),
        (r"CUDA out of memory", "out of GPU memory"),
        (_MEMORY, "out of memory"),
        (r"No space left on device", "no space left on device"),
        (r"Disk quota exceeded", "disk quota exceeded"),
        (r"\*\*\* .+ CANCELLED AT \S+ DUE TO (?P<reason>[A-Z][A-Z ]+[A-Z])", "cancelled: {reason}"),
        (r"\*\*\* .+ CANCELLED AT ", "cancelled"),
        (_KILLED, "killed (SIGKILL), often for want of memory"),
    )
)


def find_cause(log_text: str) -> str | None:
    """Name why a job ended badly: "out of memory", "cancelled: time limit" ...; None if its log holds no known message.

    Args:
        log_text: stdout and stderr of one incarnation; Slurm writes its own messages to stderr.
    """
    for pattern, cause in _CAUSES:
        if match := pattern.search(log_text):
            return cause.format(**{name: text.lower() for name, text in match.groupdict().items()})
    return None
