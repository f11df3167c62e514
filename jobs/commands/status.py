"""Commands that follow a run: ``status``, ``logs`` and ``cancel``."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.errors import UserError
from data_prep.log import describe_count, printable
from jobs.commands.options import Run

if TYPE_CHECKING:
    from jobs.engine.graph import Graph
    from jobs.engine.item_states import ItemState, QueueState
    from jobs.engine.stage import Ref

_COLOURS = {"done": "green", "failed": "red", "refused": "yellow", "running": "cyan", "stopped": "magenta"}
_HEADER = ("stage", "item", "state", "seconds", "note")
_STATE = _HEADER.index("state")


def status(folder: Run) -> None:
    """Say what became of each item of a run: from its folder, and from Slurm where it was put in a queue."""
    from jobs.engine.follow import queued_states
    from jobs.engine.item_states import item_states
    from jobs.engine.run_folder import RunFolder
    from jobs.stages.graph import started_of

    run_folder = RunFolder.opened(folder)
    graph = started_of(run_folder)
    queue = queued_states(run_folder, graph)
    _print_table(_rows({**_outside(graph, queue), **item_states(graph, queue)}))


def logs(folder: Run, stage: Annotated[str | None, typer.Argument(help="Of this stage alone.")] = None) -> None:
    """Show the ends of the logs of failed items, first of those that failed by themselves; else one newest log."""
    from jobs.engine.follow import queued_states
    from jobs.engine.item_states import item_states
    from jobs.engine.logs import UNSUCCESSFUL, Logs
    from jobs.engine.run_folder import RunFolder
    from jobs.stages.graph import started_of

    run_folder = RunFolder.opened(folder)
    graph = started_of(run_folder)
    queue = queued_states(run_folder, graph)
    all_states = {**_outside(graph, queue), **item_states(graph, queue)}
    states = _of_stage(all_states, stage, [*dict.fromkeys([*(name for name, _ in queue), *graph.stages])])
    run_logs = Logs(run_folder.root, graph, queue)
    failures = run_logs.of_failed(states)
    if not failures:
        has_failures = any(state.state in UNSUCCESSFUL for state in states.values())
        typer.echo(
            "no log of a failed item is there: `quarterdose status` says why" if has_failures else "no item failed"
        )
    newest = None if failures else run_logs.current(states)
    for path, text in [newest] if newest else failures:
        lines = "\n".join(map(printable, text.splitlines()))
        typer.echo(f"==> {printable(str(path))}\n{lines}\n")


def cancel(folder: Run) -> None:
    """Take all jobs of a run out of Slurm's queue, and end those that run; what is complete stays."""
    from jobs.commands.run import check_free
    from jobs.engine.follow import cancel_run
    from jobs.engine.run_folder import RunFolder

    run_folder = RunFolder.opened(folder)
    check_free(run_folder)  # a submission that is at work would go on with the rest of its jobs
    typer.echo(f"{describe_count(cancel_run(run_folder), 'job')} cancelled")


def _outside(graph: "Graph", queue: Mapping["Ref", "QueueState"]) -> dict["Ref", "ItemState"]:
    """Return the states of what is in the queue and is no item of the graph, such as the search for scans."""
    from jobs.engine.item_states import ItemState

    return {ref: ItemState(job.state, job.note) for ref, job in queue.items() if ref[0] not in graph.stages}


def _of_stage(
    states: Mapping["Ref", "ItemState"], stage: str | None, stages: Sequence[str]
) -> dict["Ref", "ItemState"]:
    """Return the states of the items of one stage, or of all without one.

    Raises:
        UserError: there is no such stage.
    """
    if stage is not None and stage not in stages:
        raise UserError(f"{stage!r} is no stage of this run: take one of {', '.join(stages)}")
    return {ref: state for ref, state in states.items() if stage in (None, ref[0])}


def _rows(states: Mapping["Ref", "ItemState"]) -> list[tuple[str, ...]]:
    """Return a row for each item, as texts of one line."""
    return [
        tuple(map(printable, (*ref, state.state, "" if state.seconds is None else f"{state.seconds:.1f}", state.note)))
        for ref, state in states.items()
    ]


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows below a header, in columns; a note is never broken, so that each item is one line."""
    widths = [max(map(len, column)) for column in list(zip(_HEADER, *rows, strict=True))[:-1]]
    lines = list[str]()
    for row in (_HEADER, *rows):
        cells = [text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)]
        cells[_STATE] = _paint(cells[_STATE], _COLOURS.get(row[_STATE]))
        lines.append("  ".join(cells).rstrip())
    typer.echo("\n".join(lines))


def _paint(text: str, colour: str | None) -> str:
    """Colour a text, unless the terminal has no colours or its user wants none (no-color.org)."""
    is_plain = os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR")
    return typer.style(text, fg=colour) if colour and not is_plain else text
