"""Whether convolutions run just as their layers describe them, where CPUs would gain by other ways of the same sums."""

from collections.abc import Iterator
from contextlib import contextmanager

_active = False


def are_described() -> bool:
    """Whether convolutions run now as their layers describe them."""
    return _active


@contextmanager
def as_described() -> Iterator[None]:
    """Have each convolution run as its layer describes it: where they are counted, or stand for those of a GPU."""
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before
