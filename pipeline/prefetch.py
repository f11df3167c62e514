"""Work that is done in a thread before it is asked for."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items in their order; the next one is made, in one thread, while this one is used. None of them is None."""
    coming = iter(items)
    with ThreadPoolExecutor(1) as maker:
        following = maker.submit(next, coming, None)
        while (item := following.result()) is not None:
            following = maker.submit(next, coming, None)
            yield item
