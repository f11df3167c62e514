"""Resident memory of a process, as Linux counts it."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

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


class BetweenOperators(TorchDispatchMode):
    """The ``peak`` of resident bytes after each of torch's operators: what one allocates and frees is not seen.

    oneDNN's convolutions have such a workspace on processors without AVX-512, and none on others.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, resident("VmRSS"))
        return results
