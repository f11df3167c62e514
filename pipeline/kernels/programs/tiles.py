"""How (rows, channels) are divided among the programs of a kernel: into blocks of some tiles each.

The division depends on the sizes alone, not on the GPU, so that sums are taken in the same order everywhere.
"""

from functools import cache
from typing import NamedTuple

import triton

ELEMENTS = 4096
"""Of a tile, so that a thread of 256 holds sixteen."""
OPTIONS = {"num_warps": 8, "maxnreg": 64, "enable_fp_fusion": True}
"""Of a launch. With 64 registers a thread, four programs run on a multiprocessor at once."""
BLOCKS = 4 * 108
"""At the most: all run at once on an A100's 108 multiprocessors; few enough that each can add up all blocks' sums."""


class Tiling(NamedTuple):
    """Rows of a tile, rows of a block, the number of blocks, and the channels of a tile, a power of two."""

    rows: int
    span: int
    blocks: int
    channels: int


def grid_of_voxels(voxels: int, channels: int, elements: int = ELEMENTS) -> tuple[tuple[int], tuple[int, int]]:
    """Divide (voxels, channels) into tiles of so many elements: their number, and a tile's voxels and channels."""
    padded = triton.next_power_of_2(channels)
    height = min(max(1, elements // padded), triton.next_power_of_2(voxels))
    return (-(-voxels // height),), (height, padded)


@cache
def tile(rows: int, channels: int, elements: int = ELEMENTS) -> Tiling:
    """Divide ``rows`` of ``channels`` into tiles of so many elements."""
    (tiles,), (height, padded) = grid_of_voxels(rows, channels, elements)
    span = height * -(-tiles // BLOCKS)
    return Tiling(height, span, -(-rows // span), padded)
