"""Reading ahead in a thread."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items in order; a thread computes the next one while the caller uses this one.

    No item may be None. What ``items`` raises is raised here.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(next, source, None)
        while (item := upcoming.result()) is not None:
            upcoming = reader.submit(next, source, None)
            yield item
