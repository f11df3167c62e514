"""Why a job ended badly, as its log tells."""

import re

_MEMORY = (
    r"exceeded memory limit|oom[-_]kill|: task \S+: Out Of Memory$|^MemoryError|_ArrayMemoryError"
    r"|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
)
_KILLED = r": task \S+: Killed$|: line \d+: +\d+ Killed |killed by signal: Killed|<Signals\.SIGKILL: 9>"
# the first that is found: what says more stands before what follows from it
_CAUSES = tuple(
    (re.compile(pattern, re.MULTILINE), cause)
    for pattern, cause in (
        (r"CUDA out of memory", "out of GPU memory"),
        (_MEMORY, "out of memory"),
        (r"No space left on device", "no space left on device"),
        (r"Disk quota exceeded", "disk quota exceeded"),
        (r"\*\*\* .+ CANCELLED AT \S+ DUE TO (?P<why>[A-Z][A-Z ]+[A-Z])", "cancelled: {why}"),
        (r"\*\*\* .+ CANCELLED AT ", "cancelled"),
        (_KILLED, "killed (SIGKILL), often for want of memory"),
    )
)


def find_cause(log_text: str) -> str | None:
    """A short phrase, such as "out of memory" or "cancelled: time limit", or None if nothing known is found.

    Args:
        log_text: what one incarnation wrote to stdout and stderr; Slurm's own messages are in the latter.
    """
    for pattern, cause in _CAUSES:
        if match := pattern.search(log_text):
            return cause.format(**{name: text.lower() for name, text in match.groupdict().items()})
    return None
