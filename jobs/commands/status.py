"""The table of ``quarterdose status``: what became of each item of a run."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from jobs.engine.graph import Graph
from jobs.engine.stage import Ref, Stage

_COLOURS = {"done": "green", "failed": "red", "refused": "yellow", "running": "cyan", "blocked": "magenta"}


def status_table(graph: Graph, queued: Mapping[Ref, tuple[str, str]]) -> Table:
    """A row an item: its state, time and reason, as the disk has it; ``queued``: state and note of those in a queue.

    What is no item of the graph, such as the look for scans, comes first.
    """
    table = Table("stage", "item", "state", "seconds", "note", box=None, header_style="bold")
    for (name, item), (state, note) in queued.items():
        if name not in graph.stages:
            table.add_row(name, item, f"[{_COLOURS.get(state, 'dim')}]{state}[/]", "", escape(note))
    for stage in graph.stages.values():
        for item in stage.items():
            state, seconds, note = _item_state(graph, stage, item, *queued.get((stage.name, item), ("", "")))
            table.add_row(stage.name, escape(item), f"[{_COLOURS.get(state, 'dim')}]{state}[/]", seconds, escape(note))
    return table


def _item_state(graph: Graph, stage: Stage, item: str, queued: str, where: str) -> tuple[str, str, str]:
    marker, said = stage.markers.read(item), stage.markers.progress(item)
    live = queued in ("running", "waiting")
    if marker and not (live and stage.own_job and not stage.in_one_job):
        known = "" if live else where
        return marker.state, f"{marker.seconds:.1f}", "; ".join(filter(None, (marker.reason, known)))
    if said and (queued == "running" or stage.markers.running(item)):
        return "running", "", f"{said['done']}/{said['total']} {said['note']} {where}".rstrip()
    if live or queued == "failed":
        return queued, "", where
    if said:
        return "stopped", "", f"at {said['done']}/{said['total']} {said['note']}"
    blocked = graph.blocked_by(stage, item)
    return "waiting", "", f"for {'/'.join(blocked)}" if blocked else ""
