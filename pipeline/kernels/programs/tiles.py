"""How (rows, channels) are divided among the programs of a kernel: into blocks of some tiles each.

The division depends on the sizes alone, not on the GPU, so that sums are taken in the same order everywhere.
"""

from functools import cache
from typing import NamedTuple

import triton

ELEMENTS = 4096
"""Of a tile, so that a thread of 256 holds sixteen."""
WARPS = 8
BLOCKS = 512
"""At the most: enough to keep the memory of a GPU busy, few enough that each program can add up all blocks' sums."""


class Tiling(NamedTuple):
    """Rows of a tile, rows of a block, the number of blocks, and the channels of a tile, a power of two."""

    rows: int
    span: int
    blocks: int
    channels: int


@cache
def tile(rows: int, channels: int) -> Tiling:
    """Divide ``rows`` of ``channels``."""
    padded = triton.next_power_of_2(channels)
    height = min(max(1, ELEMENTS // padded), triton.next_power_of_2(rows))
    tiles = -(-rows // height)
    span = height * -(-tiles // BLOCKS)
    return Tiling(height, span, -(-rows // span), padded)
