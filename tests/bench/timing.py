"""Two calls timed in turn."""

import statistics
import time
from collections.abc import Callable

Timed = Callable[[], object]
ROUNDS = 5


def medians(ours: Timed, baseline: Timed, rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of both, run in turn after one warm-up each."""
    seconds: dict[Timed, list[float]] = {ours: [], baseline: []}
    for turn in range(rounds + 1):
        for call, taken in seconds.items():
            began = time.perf_counter()
            call()
            if turn:
                taken.append(time.perf_counter() - began)
    return statistics.median(seconds[ours]), statistics.median(seconds[baseline])
