"""Whether convolutions run just as their layers describe them, or as a CPU computes the same sums quicker."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_as_described = False


@contextmanager
def as_described() -> Iterator[None]:
    """Have each convolution run as its layer describes it: where they are counted, or stand for those of a GPU."""
    global _as_described
    before, _as_described = _as_described, True
    try:
        yield
    finally:
        _as_described = before


def may_rearrange(x: Tensor) -> bool:
    """Whether the sums of a convolution of ``x`` may be arranged anew: of volumes, in float32 on CPUs."""
    is_exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return not _as_described and is_exact and x.device.type == "cpu" and x.dim() == 5
