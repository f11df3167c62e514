"""Progress of a run for people: bars on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich import get_console
from rich import progress as bars
from rich.markup import escape

from data_prep.log import logger
from data_prep.progress import Progress
from jobs.engine.stage import Stage

_LINE_SECONDS = 30  # between plain lines of one item, where there is no terminal


class Display:
    """Progress of the items that run at this moment."""

    def __init__(self) -> None:
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}"), bars.TimeElapsedColumn(),
            disable=not _draws_bars(),
        )  # fmt: skip
        self._tasks: dict[str, bars.TaskID] = {}
        self._line_times: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, stage: Stage, items: Sequence[str]) -> None:
        """Show the progress of running items."""
        for item in items:
            progress = stage.markers.read_progress(item)
            if progress:
                self._show(f"{stage.name}/{item}", progress)

    def _show(self, name: str, progress: dict[str, Any]) -> None:
        completed, total, note = progress["done"], progress["total"], progress["note"]
        self._bars.update(self._task(name), completed=completed, total=total, note=escape(note))
        quiet_since = self._line_times.setdefault(name, time.monotonic())
        if self._bars.disable and time.monotonic() - quiet_since >= _LINE_SECONDS:
            self._line_times[name] = time.monotonic()
            logger.info(f"{name}: {completed}/{total} {note}")

    def finish(self, stage: Stage, items: Sequence[str]) -> None:
        """Log how the items ended, and remove their bars."""
        for item in items:
            name, marker = f"{stage.name}/{item}", stage.markers.read(item)
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            if marker:
                reason = f": {marker.reason}" if marker.reason else ""
                level = logging.INFO if marker.state == "done" else logging.WARNING
                logger.log(level, f"{name}: {marker.state} after {marker.seconds:.0f} s{reason}")

    def _task(self, name: str) -> bars.TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), note="")
        return self._tasks[name]


@contextmanager
def looking(title: str) -> Iterator[Progress]:
    """Give a callback that shows how far one long task is: a bar on a terminal, elsewhere a line now and then."""
    line_time = time.monotonic()
    with bars.Progress(disable=not _draws_bars(), transient=True) as bar:
        task = bar.add_task(escape(title))

        def report(completed: int, total: int, note: str) -> None:
            nonlocal line_time
            bar.update(task, completed=completed, total=total)
            if bar.disable and time.monotonic() - line_time >= _LINE_SECONDS:
                line_time = time.monotonic()
                logger.info(f"{title}: {completed}/{total} {note}")

        yield report


def _draws_bars() -> bool:
    return get_console().is_terminal and logger.isEnabledFor(logging.INFO)
