"""Processes that form a process group, forked from a server that has torch and the trainer loaded."""

from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from typing import Any

from torch.multiprocessing.spawn import ProcessContext, start_processes

from tests.forked import PRELOADED


def start_ranks(main: Callable[..., None], arguments: tuple[Any, ...], ranks: int) -> ProcessContext:
    """Start ``main(rank, *arguments)`` in so many processes."""
    set_forkserver_preload(PRELOADED)
    context: ProcessContext = start_processes(main, arguments, ranks, join=False, start_method="forkserver")
    return context


def run_ranks(main: Callable[..., None], arguments: tuple[Any, ...], ranks: int) -> None:
    """Start processes and wait for their end; raises what the first of them raised."""
    context = start_ranks(main, arguments, ranks)
    while not context.join():
        pass
