"""The device of the tests and benchmarks of GPUs, and their sizes.

``QUARTERDOSE_DRY=1`` takes tiny sizes, and the CPU where there is no GPU: the same code, to see that it runs.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

DRY = os.environ.get("QUARTERDOSE_DRY") == "1"
SLICES, SIDE = (16, 32) if DRY else (16, 512)
REPETITIONS = 1 if DRY else 5


def device() -> torch.device:
    """Return the first GPU; in a dry run the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def synchronise() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(*calls: Callable[[], Any], repetitions: int = REPETITIONS) -> list[float]:
    """Return the median seconds of calls that take turns, after two of each that warm up."""
    times = [[_time(call) for call in calls] for _ in range(repetitions + 2)]
    return [statistics.median(turns) for turns in zip(*times[2:], strict=True)]


def _time(call: Callable[[], Any]) -> float:
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def _multiply() -> None:
    """Let cuBLAS take its workspaces, of forward and backward passes, which stay allocated."""
    x = torch.ones(8, 8, device=device(), requires_grad=True)
    (x @ x).sum().backward()
    synchronise()


def peak_bytes(build: Callable[[], Callable[[], Any]]) -> int:
    """Build a call; return the peak of the bytes that are allocated on the GPU while it runs the second time."""
    if not torch.cuda.is_available():
        build()()
        return 0
    _multiply()
    torch.cuda.empty_cache()
    before, call = torch.cuda.memory_allocated(), build()
    call()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before
