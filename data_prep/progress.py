"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Takes how much is done, of how much, and a note."""


def untold(done: int, total: int, note: str) -> None:
    """Tell nobody."""
