"""Commands that follow a run: ``status``, ``logs`` and ``cancel``."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.commands.options import Run
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage

_COLOURS = {"done": "green", "failed": "red", "refused": "yellow", "running": "cyan", "blocked": "magenta"}
_FILE_WIDTH = 1000  # characters; in a file or a pipe a row is never broken


def status(folder: Run) -> None:
    """Say what became of each item of a run: from its folder, and from Slurm where it was put in a queue."""
    from jobs.engine.follow import queued_states
    from jobs.stages.graph import graph_of

    run_folder = RunFolder.opened(folder)
    graph = graph_of(run_folder)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(_status_table(graph, queued_states(run_folder, graph)))


def logs(folder: Run, stage: Annotated[str | None, typer.Argument(help="Of this stage alone.")] = None) -> None:
    """Show the ends of the logs of failed processes, first of those that failed by themselves; else the newest log."""
    from jobs.engine.follow import failing_logs

    for path, text in failing_logs(RunFolder.opened(folder), stage):
        typer.echo(f"==> {path}\n{text}\n")


def cancel(folder: Run) -> None:
    """Take all jobs of a run out of Slurm's queue, and end those that run; what is complete stays."""
    from jobs.engine.follow import cancel_run

    typer.echo(f"{cancel_run(RunFolder.opened(folder))} jobs cancelled")


def _status_table(graph: Graph, queued: Mapping[Ref, tuple[str, str]]) -> Table:
    """Make a table with a row per item: its state, its seconds and a note, by its files and by ``queued``.

    ``queued``: state and note of the items whose jobs Slurm knows. Those that are no items of the graph, such as the
    search for scans, come first.
    """
    table = Table("stage", "item", "state", "seconds", "note", box=None, header_style="bold")
    for (stage_name, item), (state, note) in queued.items():
        if stage_name not in graph.stages:
            table.add_row(stage_name, item, _coloured(state), "", escape(note))
    for stage in graph.stages.values():
        for item in stage.items():
            state, seconds, note = _item_state(graph, stage, item, *queued.get((stage.name, item), ("", "")))
            table.add_row(stage.name, escape(item), _coloured(state), seconds, escape(note))
    return table


def _coloured(state: str) -> str:
    return f"[{_COLOURS.get(state, 'dim')}]{state}[/]"


def _item_state(graph: Graph, stage: Stage, item: str, queue_state: str, queue_note: str) -> tuple[str, str, str]:
    """State, seconds and note of one item."""
    marker, progress = stage.markers.read(item), stage.markers.read_progress(item)
    in_queue = queue_state in ("running", "waiting")
    if marker and not (in_queue and stage.uses_ranks and not stage.shares_job):
        notes = (marker.reason, "" if in_queue else queue_note)
        return marker.state, f"{marker.seconds:.1f}", "; ".join(filter(None, notes))
    position = f"{progress['done']}/{progress['total']} {progress['note']}" if progress else ""
    if progress and (queue_state == "running" or stage.markers.is_running(item)):
        return "running", "", f"{position} {queue_note}".rstrip()
    if in_queue or queue_state == "failed":
        return queue_state, "", queue_note
    if progress:
        return "stopped", "", f"at {position}"
    blocked = graph.blocked_by(stage, item)
    return "waiting", "", f"for {'/'.join(blocked)}" if blocked else ""
