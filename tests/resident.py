"""Resident memory of a process, as Linux counts it."""

import ctypes
import re
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_BLOCK = 128 * 1024


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    line = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line
    return int(line[1]) * 1024


def give_back_at_once() -> None:
    """Give freed blocks back at once, so that resident bytes are what is held and not a heap's gaps."""
    mallopt = ctypes.CDLL(None).mallopt
    for option, limit in ((_M_TRIM_THRESHOLD, _BLOCK), (_M_MMAP_THRESHOLD, _BLOCK), (_M_ARENA_MAX, 1)):
        assert mallopt(option, limit)
