"""Two calls timed in turn."""

import statistics
import time
from collections.abc import Callable

Timed = Callable[[], object]
ROUNDS = 5


def medians(ours: Timed, baseline: Timed, rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of both, run in turn after one warm-up each."""
    times = [(seconds_of(ours), seconds_of(baseline)) for _ in range(rounds + 1)]
    first, second = (statistics.median(turns) for turns in zip(*times[1:], strict=True))
    return first, second


def seconds_of(call: Timed) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
