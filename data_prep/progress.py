"""Callbacks by which long work reports its progress."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Takes the number of finished units, their total, and a note such as the unit's name."""


def ignore_progress(count: int, total: int, note: str) -> None:
    """Report nothing: the default where nobody watches."""
