"""Random damage to files, for tests that count their inputs."""

import os

import numpy as np

SHARE = float(os.environ.get("QUARTERDOSE_FUZZ_SHARE", "0.1"))  # of the inputs of all tests, which take over a minute


def broken(content: bytes, generator: np.random.Generator) -> bytes:
    """Return bytes of which some are changed, mostly in the header; some are also cut off, or doubled."""
    damaged = bytearray(content)
    for _ in range(int(generator.integers(1, 6))):
        end = len(damaged) if generator.random() < 0.2 else min(len(damaged), 1500)
        position = int(generator.integers(0, end))
        damaged[position] = int(generator.integers(0, 256))
    kind = generator.random()
    if kind < 0.15:
        del damaged[int(generator.integers(0, len(damaged))) :]
    elif kind < 0.25:
        position = int(generator.integers(0, len(damaged)))
        damaged[position:position] = damaged[position // 2 : position]
    return bytes(damaged)
