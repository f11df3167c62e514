"""Progress of a run for people: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from data_prep.progress import Progress as Told
from jobs.engine.stage import Stage

_LINE_SECONDS = 30  # between plain lines of one item, where there is no terminal


class Display:
    """Progress of the items that run now."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """One line above the bars."""
        self.console.print(escape(line), highlight=False, soft_wrap=True)

    def update(self, stage: Stage, items: Sequence[str], since: float) -> None:
        """Show how far the running items are."""
        for item in items:
            said = stage.markers.progress(item)
            if said and said["at"] >= since:
                self._show(f"{stage.name}/{item}", said)

    def _show(self, name: str, said: dict[str, Any]) -> None:
        self._bars.update(self._task(name), completed=said["done"], total=said["total"], note=escape(said["note"]))
        quiet_since = self._said_at.setdefault(name, time.monotonic())
        if not self.console.is_terminal and time.monotonic() - quiet_since >= _LINE_SECONDS:
            self._said_at[name] = time.monotonic()
            self.say(f"{name}: {said['done']}/{said['total']} {said['note']}")

    def finish(self, stage: Stage, items: Sequence[str]) -> None:
        """Say what became of the items, and take their bars away."""
        for item in items:
            name, marker = f"{stage.name}/{item}", stage.markers.read(item)
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            if marker:
                self.say(
                    f"{name}: {marker.state} after {marker.seconds:.0f} s"
                    + (f": {marker.reason}" if marker.reason else "")
                )

    def _task(self, name: str) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), note="")
        return self._tasks[name]


@contextmanager
def looking(console: Console, what: str) -> Iterator[Told]:
    """Give a callback that shows how far one long look is: a bar on a terminal, elsewhere a line now and then."""
    said_at = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task(what)

        def tell(done: int, total: int, note: str) -> None:
            nonlocal said_at
            bars.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - said_at >= _LINE_SECONDS:
                said_at = time.monotonic()
                console.print(f"{what}: {done}/{total} {note}", highlight=False, markup=False, soft_wrap=True)

        yield tell
