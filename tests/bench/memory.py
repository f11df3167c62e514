"""Benchmark of what a network keeps for its backward pass."""

from pipeline.models import DDnet
from tests.plain_ddnet import PlainDDnet
from tests.saved_memory import saved_bytes as bytes_saved_by

_SHAPE = (1, 1, 16, 512, 512)
_GIB = 2**30


def saved_bytes() -> tuple[float, float]:
    """GiB kept by 3D-DDnet with activation checkpointing at 16 x 512 x 512, against the network written plainly."""
    ours, plain = DDnet(3, checkpointing=True), PlainDDnet(3)
    return bytes_saved_by(ours, _SHAPE) / _GIB, bytes_saved_by(plain, _SHAPE) / _GIB
